# Compiler settings shared by every target.
include(GNUInstallDirs)
set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
set(CMAKE_RUNTIME_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/bin)
if(NOT CMAKE_BUILD_TYPE)
  set(CMAKE_BUILD_TYPE Release)
endif()
# -O3 for the kernels; assertions are our own checks and stay on in every build.
set(CMAKE_CXX_FLAGS_RELEASE "-O3")
add_compile_options("$<$<NOT:$<COMPILE_LANGUAGE:CUDA>>:-Wall;-Wextra;-Wno-sign-compare;-Wno-stringop-overflow;-Wno-missing-field-initializers;-fno-math-errno;-fno-trapping-math>")
if(SPANWISE_NATIVE)
  add_compile_options("$<$<NOT:$<COMPILE_LANGUAGE:CUDA>>:-march=native>")
endif()
if(SPANWISE_SANITIZE)
  add_compile_options("$<$<NOT:$<COMPILE_LANGUAGE:CUDA>>:-fsanitize=${SPANWISE_SANITIZE};-fno-omit-frame-pointer;-g>")
  add_link_options(-fsanitize=${SPANWISE_SANITIZE})
endif()

# spanwise_library(NAME sources...): a static library that sees the repository root as its include path; for other projects
# Spanwise::NAME without its "spanwise_", whether they find it installed or add this one.
function(spanwise_library name)
  add_library(${name} STATIC ${ARGN})
  target_include_directories(${name} PUBLIC $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}>
                                            $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}/spanwise>)
  target_compile_features(${name} PUBLIC cxx_std_20)
  string(REPLACE spanwise_ "" short ${name})
  set_target_properties(${name} PROPERTIES EXPORT_NAME ${short})
  add_library(Spanwise::${short} ALIAS ${name})
  set_property(GLOBAL APPEND PROPERTY SPANWISE_LIBRARIES ${name})
endfunction()
