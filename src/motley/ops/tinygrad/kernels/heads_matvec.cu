// Each head times its own matrix: y [T, H ROWS_W] of x [T, H COLS] and w [H, ROWS_W, COLS].
//
// grid: (ROWS_W / (WARPS EACH rows of a warp), H, T): rows are short (latent attention's ranks), so that few lanes have one together.

#define LANES LANES_OF(COLS)

extern "C" __global__ void __launch_bounds__(WARPS * 32) NAME(
    float* y, const float* x, const u8* a, const u8* b, const u8* c, const u8* d) {
    __shared__ float xs[STAGED(COLS)];
    int t = blockIdx.z, h = blockIdx.y;
    stage(xs, x + ((long)t * H + h) * COLS, 0, 1.0f, COLS);
    __syncthreads();
#pragma unroll
    for (int i = 0; i < EACH; i++) {
        int row = ((blockIdx.x * EACH + i) * WARPS + WARP) * (32 / LANES) + LANE / LANES;
        float sum = short_dot<Q, LANES>(Planes{a, b, c, d}, (long)h * ROWS_W + row, row < ROWS_W, COLS, xs);
        if (LANE % LANES == 0 && row < ROWS_W) y[((long)t * H + h) * ROWS_W + row] = sum;
    }
}
