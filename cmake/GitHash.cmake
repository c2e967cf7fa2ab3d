# cmake -D SOURCE_DIR=repository -D OUTPUT=build_info.cpp -P GitHash.cmake
# Writes the checkout's commit, "-dirty" appended where tracked files differ from it; "unknown" where SOURCE_DIR is not
# the root of a git checkout (a source archive unpacked inside some other repository is not).
set(hash unknown)
find_program(GIT git)
if(GIT)
  execute_process(COMMAND ${GIT} rev-parse --show-prefix HEAD WORKING_DIRECTORY ${SOURCE_DIR}
                  OUTPUT_VARIABLE answer RESULT_VARIABLE failed ERROR_QUIET)
  # At the root the first line, the path below the root, is empty.
  if(NOT failed AND answer MATCHES "^\n([0-9a-f]+)\n$")
    set(hash ${CMAKE_MATCH_1})
    execute_process(COMMAND ${GIT} status --porcelain --untracked-files=no WORKING_DIRECTORY ${SOURCE_DIR}
                    OUTPUT_VARIABLE changes)
    if(changes)
      string(APPEND hash -dirty)
    endif()
  endif()
endif()
file(CONFIGURE OUTPUT ${OUTPUT} CONTENT [[#include "launcher/build_info.h"

namespace spanwise {
std::string git_hash() { return "@hash@"; }
}  // namespace spanwise
]] @ONLY)
