# No link-time optimization, which pybind11 would choose for the bindings alone: calls take as long without it.
if(NOT DEFINED CMAKE_INTERPROCEDURAL_OPTIMIZATION)
  set(CMAKE_INTERPROCEDURAL_OPTIMIZATION OFF)
endif()

# pybind11 of the Python that the build uses; the one that pip installed need not be named on the command line.
set(PYBIND11_FINDPYTHON ON)
if(NOT pybind11_DIR)
  find_package(Python REQUIRED COMPONENTS Interpreter Development.Module)
  execute_process(COMMAND ${Python_EXECUTABLE} -m pybind11 --cmakedir OUTPUT_VARIABLE installed
                  OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
  if(installed)
    set(pybind11_DIR ${installed} CACHE PATH "Folder of pybind11Config.cmake")
  endif()
endif()
find_package(pybind11 3 CONFIG REQUIRED)

# GCC 13 takes calls with more than six arguments for reads beyond the six that pybind11 keeps in place.
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_CXX_COMPILER_VERSION VERSION_GREATER_EQUAL 13)
  target_compile_options(pybind11::headers INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-Wno-array-bounds>)
endif()

# Headers are read once, not by each file.  As one file the bindings share what they instantiate too, and a core works
# alone: for builds from scratch.
option(CBOKERNELS_ONE_FILE "Compile the bindings as one file, in a third of the time that they take one by one, and small files of kernels together" OFF)
function(cbk_read_headers_once bindings)
  if(CBOKERNELS_ONE_FILE)
    set_target_properties(${bindings} PROPERTIES UNITY_BUILD ON UNITY_BUILD_BATCH_SIZE 0)
  else()
    target_precompile_headers(${bindings} PRIVATE <pybind11/numpy.h> <pybind11/stl.h>)
  endif()
endfunction()
# Of these files the headers are most of the work.
function(cbk_read_together target)
  if(CBOKERNELS_ONE_FILE)
    set_source_files_properties(${ARGN} PROPERTIES UNITY_GROUP small)
    set_target_properties(${target} PROPERTIES UNITY_BUILD ON UNITY_BUILD_MODE GROUP)
  endif()
endfunction()
