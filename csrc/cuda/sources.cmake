# The CUDA kernels and their bindings, for nvcc (CMakeLists.txt) and for the emulation (tests/cuda/CMakeLists.txt).
# Those that compile longest come first: no core waits for another at the end.
set(CBK_CUDA_KERNELS risk/cuda/risk_cuda.cu risk/cuda/tensor_cuda.cu risk/cuda/gradient_cuda.cu risk/cuda/slopes_cuda.cu risk/cuda/losses_cuda.cu
    risk/cuda/lane_slopes_cuda.cu hopping/hopping_cuda.cu hopping/low_rank_lines_cuda.cu hopping/low_rank_cuda.cu hopping/fit_cuda.cu hopping/weights_cuda.cu update/update_cuda.cu transport/assign_cuda.cu transport/barycenter_cuda.cu
    transport/transport_cuda.cu transport/sinkhorn_cuda.cu training/training_cuda.cu training/steps_cuda.cu training/hopping_steps_cuda.cu
    training/transport_steps_cuda.cu training/small_cuda.cu training/report_cuda.cu consensus/consensus_cuda.cu
    consensus/alphas_cuda.cu
    langevin/langevin_cuda.cu random/random_cuda.cu cuda/device.cu cuda/memory.cu cuda/probe.cu common/interrupt.cpp)
set(CBK_CUDA_BINDINGS cuda/module.cpp random/random_bind.cpp update/update_bind.cpp langevin/langevin_bind.cpp
    consensus/consensus_bind.cpp risk/risk_bind.cpp hopping/hopping_bind.cpp transport/transport_bind.cpp
    training/training_cuda_bind.cpp cuda/testing_bind.cpp)  # with CBK_CARD
set(CBK_CUDA_KERNELS_SM90A risk/cuda/tensor_groups_cuda.cu)
list(TRANSFORM CBK_CUDA_KERNELS_SM90A PREPEND ${CMAKE_CURRENT_LIST_DIR}/../)
list(TRANSFORM CBK_CUDA_KERNELS PREPEND ${CMAKE_CURRENT_LIST_DIR}/../)
list(TRANSFORM CBK_CUDA_BINDINGS PREPEND ${CMAKE_CURRENT_LIST_DIR}/../)

# The kernels as a library, cbk_cuda; with those whose code serves cards of sm_90 alone, where these are asked for.
function(cbk_add_kernels)
  set(wanted ${CMAKE_CUDA_ARCHITECTURES})
  if(wanted STREQUAL native)
    set(wanted ${CMAKE_CUDA_ARCHITECTURES_NATIVE})
  elseif(wanted STREQUAL all)
    set(wanted ${CMAKE_CUDA_ARCHITECTURES_ALL})
  elseif(wanted STREQUAL all-major)
    set(wanted ${CMAKE_CUDA_ARCHITECTURES_ALL_MAJOR})
  endif()
  set(libraries cbk_cuda)
  add_library(cbk_cuda STATIC ${CBK_CUDA_KERNELS})
  if(wanted MATCHES "(^|;)(90|all)" AND CMAKE_CUDA_COMPILER_VERSION VERSION_GREATER_EQUAL 12)
    add_library(cbk_cuda_sm90a STATIC ${CBK_CUDA_KERNELS_SM90A})
    set_target_properties(cbk_cuda_sm90a PROPERTIES CUDA_ARCHITECTURES 90a-real)
    target_compile_definitions(cbk_cuda PRIVATE CBK_SM90A)
    target_link_libraries(cbk_cuda PRIVATE cbk_cuda_sm90a)
    list(APPEND libraries cbk_cuda_sm90a)
  endif()
  # probe.cu tells those whom it does not serve
  string(REPLACE ";" " " names "${wanted}")
  set_source_files_properties(${CMAKE_CURRENT_FUNCTION_LIST_DIR}/probe.cu PROPERTIES COMPILE_DEFINITIONS
                              "CBK_ARCHITECTURES=\"${names}\"")
  # C++17 serves, and not every CMake knows nvcc's C++20
  set_target_properties(${libraries} PROPERTIES CUDA_STANDARD 17 CUDA_STANDARD_REQUIRED ON CUDA_EXTENSIONS OFF
                        CUDA_RUNTIME_LIBRARY Static)
  foreach(library ${libraries})
    # the CPU's bits: nothing is contracted or approximated that the source does not say
    target_compile_options(${library} PRIVATE "$<$<COMPILE_LANGUAGE:CUDA>:-fmad=false;-ftz=false;-prec-div=true;\
-prec-sqrt=true;-Xcompiler=-ffp-contract=off,-Wall,-Wextra;$<$<BOOL:${CBOKERNELS_WERROR}>:-Werror=all-warnings>>")
  endforeach()
endfunction()
