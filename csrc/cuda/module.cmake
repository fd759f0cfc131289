# The module _cuda, where nvcc is found.  Its runtime is linked statically: importing it needs no driver.
include(CheckLanguage)
if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES AND NOT DEFINED ENV{CUDAARCHS})
  # the cards of this machine; without one sm_80 and PTX for all that came later (a wheel for everybody:
  # CUDAARCHS="75-real;80-real;90-real;100-real;120")
  if(EXISTS /dev/nvidiactl)
    set(CMAKE_CUDA_ARCHITECTURES native)
  else()
    set(CMAKE_CUDA_ARCHITECTURES 80)
  endif()
endif()
check_language(CUDA)
if(NOT CMAKE_CUDA_COMPILER)
  if(CBOKERNELS_CUDA STREQUAL "ON")
    message(FATAL_ERROR "CBOKERNELS_CUDA=ON, and no CUDA compiler was found: put nvcc into the PATH or set CUDACXX")
  endif()
  message(STATUS "cbokernels without CUDA: no CUDA compiler was found")
  return()
endif()
enable_language(CUDA)
find_package(CUDAToolkit REQUIRED)
include(${CMAKE_CURRENT_LIST_DIR}/sources.cmake)

add_library(cbk_cuda STATIC ${CBK_CUDA_KERNELS})
# C++17 serves, and not every CMake knows nvcc's C++20
set_target_properties(cbk_cuda PROPERTIES CUDA_STANDARD 17 CUDA_STANDARD_REQUIRED ON CUDA_EXTENSIONS OFF
                      CUDA_RUNTIME_LIBRARY Static)
# the CPU's bits: nothing is contracted or approximated that the source does not say
target_compile_options(cbk_cuda PRIVATE -fmad=false -ftz=false -prec-div=true -prec-sqrt=true
                       -Xcompiler=-ffp-contract=off,-Wall,-Wextra
                       $<$<BOOL:${CBOKERNELS_WERROR}>:-Werror=all-warnings>)
pybind11_add_module(_cuda ${CBK_CUDA_BINDINGS})
target_link_libraries(_cuda PRIVATE cbk_cuda CUDA::cudart_static)
target_precompile_headers(_cuda PRIVATE <pybind11/numpy.h> <pybind11/stl.h>)  # read once, not by each
install(TARGETS _cuda LIBRARY DESTINATION cbokernels)
