# The CUDA kernels and their bindings, for nvcc (CMakeLists.txt) and for the emulation (tests/cuda/CMakeLists.txt).
# Those that compile longest come first: no core waits for another at the end.
set(CBK_CUDA_KERNELS risk/risk_cuda.cu risk/tensor_cuda.cu risk/gradient_cuda.cu risk/slopes_cuda.cu risk/lane_slopes_cuda.cu
    hopping/hopping_cuda.cu hopping/weights_cuda.cu update/update_cuda.cu transport/assign_cuda.cu transport/barycenter_cuda.cu
    transport/transport_cuda.cu transport/sinkhorn_cuda.cu training/training_cuda.cu training/steps_cuda.cu training/hopping_steps_cuda.cu
    training/transport_steps_cuda.cu training/small_cuda.cu training/report_cuda.cu consensus/consensus_cuda.cu
    langevin/langevin_cuda.cu random/random_cuda.cu cuda/device.cu)
set(CBK_CUDA_BINDINGS cuda/module.cpp random/random_cuda_bind.cpp update/update_cuda_bind.cpp
    langevin/langevin_cuda_bind.cpp consensus/consensus_cuda_bind.cpp risk/risk_cuda_bind.cpp hopping/hopping_cuda_bind.cpp
    transport/transport_cuda_bind.cpp training/training_cuda_bind.cpp)
list(TRANSFORM CBK_CUDA_KERNELS PREPEND ${CMAKE_CURRENT_LIST_DIR}/../)
list(TRANSFORM CBK_CUDA_BINDINGS PREPEND ${CMAKE_CURRENT_LIST_DIR}/../)
