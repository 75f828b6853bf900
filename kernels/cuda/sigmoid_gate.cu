// sigmoid_gate: out[r, :] = x[r, :] * sigmoid(gate[r]).
#include "elementwise.cuh"
#include "math.cuh"

KERNEL(sigmoid_gate, SigmoidGateParams, THREADS) {
  wait_for_inputs();
  let_next_start();
  const u64 row = (u64)blockIdx.x * p.cols;
  const float factor = sigmoid(p.gate[blockIdx.x]);
  for_elements(blockIdx.y, p.cols, [&](u64 c) { p.out[row + c] = p.x[row + c] * factor; });
}
