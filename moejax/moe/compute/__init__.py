"""Routed experts over the tokens of one device, in several implementations.

base                     the contract: Compute, and its Stages
implementations          IMPLEMENTATIONS, the values of `moe.grouped_matmul`,
                         and `choose`, which makes the Compute of a config
permute                  rows into the order of the experts, and back

staged                   dispatch, experts and combine one after the other,
                         with any of the grouped matmuls
grouped_matmuls          GROUPED_MATMULS: one matmul per expert
pallas_grouped_matmul    two of them by Pallas kernels: megablox and tokamax
triton_grouped_matmul    one of them by Pallas kernels for NVIDIA GPUs

cpu_fused_swiglu         for CPU: SwiGLU experts in one loop over rows
blocks                   the loop over rows of one expert at a time

pallas_fused_swiglu      for TPU: SwiGLU experts with a gradient of their own
pallas_swiglu_products   their products, each with its elementwise work
pallas_epilogue          the Pallas kernel below: grouped matmuls whose results
                         are finished in fast memory
"""
