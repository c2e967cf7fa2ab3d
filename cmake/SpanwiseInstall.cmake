# cmake --install: the program, the libraries with their headers, and what find_package(Spanwise) reads.
include(CMakePackageConfigHelpers)
set(SPANWISE_CMAKE_DIR ${CMAKE_INSTALL_LIBDIR}/cmake/Spanwise)

# It finds the libraries that it was linked with: of OpenBLAS the one with OpenMP.
set_target_properties(spanwise PROPERTIES INSTALL_RPATH_USE_LINK_PATH ON)
install(TARGETS spanwise RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
get_property(libraries GLOBAL PROPERTY SPANWISE_LIBRARIES)
install(TARGETS ${libraries} EXPORT SpanwiseTargets ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR})
# Headers keep their paths in the repository: #include "core/tensor.h".
install(DIRECTORY core parallel data models launcher DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/spanwise
        FILES_MATCHING PATTERN "*.h")
install(DIRECTORY ${PROJECT_BINARY_DIR}/generated/ DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/spanwise
        FILES_MATCHING PATTERN "*.pb.h")

configure_package_config_file(cmake/SpanwiseConfig.cmake.in ${PROJECT_BINARY_DIR}/SpanwiseConfig.cmake
                              INSTALL_DESTINATION ${SPANWISE_CMAKE_DIR})
write_basic_package_version_file(${PROJECT_BINARY_DIR}/SpanwiseConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/SpanwiseConfig.cmake ${PROJECT_BINARY_DIR}/SpanwiseConfigVersion.cmake
              cmake/SpanwisePackages.cmake cmake/hide_symbols.map DESTINATION ${SPANWISE_CMAKE_DIR})
install(EXPORT SpanwiseTargets NAMESPACE Spanwise:: DESTINATION ${SPANWISE_CMAKE_DIR})
