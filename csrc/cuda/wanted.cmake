# Whether the module _cuda is to be built, before a compiler is looked for.  ON builds it anywhere, as for a wheel.
# AUTO builds it on machines with a card, or where architectures are named, which is a wish: nvcc takes minutes.
if(NOT DEFINED CBK_DEVICE_FILES)
  set(CBK_DEVICE_FILES /dev/nvidiactl /dev/nvidia0 /dev/dxg)  # the last is WSL's
endif()
set(CBK_HAS_DEVICE OFF)
foreach(file IN LISTS CBK_DEVICE_FILES)
  if(EXISTS ${file})
    set(CBK_HAS_DEVICE ON)
  endif()
endforeach()
set(CBK_WANTS_CUDA ON)
if(CBOKERNELS_CUDA STREQUAL "OFF")
  set(CBK_WANTS_CUDA OFF)
elseif(CBOKERNELS_CUDA STREQUAL "AUTO" AND NOT CBK_HAS_DEVICE AND NOT DEFINED CMAKE_CUDA_ARCHITECTURES
       AND NOT DEFINED ENV{CUDAARCHS})
  set(CBK_WANTS_CUDA OFF)
  message(STATUS "cbokernels without CUDA: this machine has no CUDA device; -DCBOKERNELS_CUDA=ON builds it all the "
                 "same (pip: --config-settings=cmake.define.CBOKERNELS_CUDA=ON)")
endif()
