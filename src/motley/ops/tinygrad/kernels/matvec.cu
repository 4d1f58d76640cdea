// y [T, R0 + R1 + R2 + R3]: x [T, COLS], normed if NORM, times up to four matrices [Ri, COLS]; of one matrix alone plus bias
// [R0] if BIAS, normed by `post` [R0] if POST, times FACTOR, plus residual [T, R0] if RESIDUAL. x are COLS columns from XFIRST on of
// rows of XROW. One launch for q, k and v, and for the output matrix with what is done to it and what it is added to. counter
// [1], zero before and after, is the kernel's own.
//
// grid.x: groups of WARPS x ROWS rows. A group does not cross from one matrix into the next. Every block norms x anew: that is
// COLS x 4 bytes from the second-level cache, against WARPS x ROWS rows of weights from memory. With POST the
// last block norms all T x R0 alone, from the second-level cache: right for few tokens.

#define CHUNK (COLS < 8192 / T ? COLS : 8192 / T)  // columns at a time: 34 KB of shared memory

template <int QUANT>
__device__ void rows_of(const Planes& w, int row, int n_rows, int from, int n, const float* xs, float sums[T][ROWS]) {
#pragma unroll
    for (int t = 0; t < T; t++)
        add_dots<QUANT, ROWS>(w, row, n_rows - row, COLS, from, n, xs + t * STAGED(CHUNK), sums[t]);
}

extern "C" __global__ void __launch_bounds__(WARPS * 32) NAME(
    float* y, u32* counter, const float* x, const float* norm, const float* residual, const float* bias, const float* post,
    const u8* a0, const u8* b0, const u8* c0, const u8* d0,
    const u8* a1, const u8* b1, const u8* c1, const u8* d1,
    const u8* a2, const u8* b2, const u8* c2, const u8* d2,
    const u8* a3, const u8* b3, const u8* c3, const u8* d3) {
    __shared__ float xs[T * STAGED(CHUNK)];
    __shared__ float shared[32];
    const int n_rows[4] = {R0, R1, R2, R3};
    int group = blockIdx.x * WARPS + WARP, which = 0, before = 0;
#pragma unroll
    for (int i = 0; i < 4; i++)
        if (which == i && group >= (n_rows[i] + ROWS - 1) / ROWS)
            group -= (n_rows[i] + ROWS - 1) / ROWS, before += n_rows[i], which++;
    int row = group * ROWS;

    x += XFIRST;
    float scales[T];
#pragma unroll
    for (int t = 0; t < T; t++) scales[t] = NORM ? norm_scale(x + (long)t * XROW, COLS, EPS, shared) : 1.0f;
    float sums[T][ROWS] = {};
    for (int from = 0; from < COLS; from += CHUNK) {
        int n = COLS - from < CHUNK ? COLS - from : CHUNK;
        __syncthreads();
#pragma unroll
        for (int t = 0; t < T; t++)
            stage(xs + t * STAGED(CHUNK), x + (long)t * XROW + from, NORM ? norm + from : 0, scales[t], n);
        __syncthreads();
        if (which == 0) rows_of<Q0>(Planes{a0, b0, c0, d0}, row, R0, from, n, xs, sums);
        if (which == 1) rows_of<Q1>(Planes{a1, b1, c1, d1}, row, R1, from, n, xs, sums);
        if (which == 2) rows_of<Q2>(Planes{a2, b2, c2, d2}, row, R2, from, n, xs, sums);
        if (which == 3) rows_of<Q3>(Planes{a3, b3, c3, d3}, row, R3, from, n, xs, sums);
    }
#pragma unroll
    for (int t = 0; t < T; t++)
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            float sum = warp_sum(sums[t][r]);
            if (LANE || which == 4 || row + r >= n_rows[which]) continue;
            long at = (long)t * (R0 + R1 + R2 + R3) + before + row + r;
            if (BIAS) sum += bias[row + r];
            y[at] = POST ? sum : RESIDUAL ? residual[at] + FACTOR * sum : FACTOR * sum;
        }
#if POST
    if (!last_block(counter, gridDim.x)) return;
    for (int t = 0; t < T; t++) {
        volatile float* all = y + (long)t * R0;  // other blocks wrote it
        float scale = norm_scale(all, R0, POST_EPS, shared);
        for (int c = threadIdx.x; c < R0; c += blockDim.x) {
            float normed = FACTOR * (all[c] * scale * post[c]);
            all[c] = RESIDUAL ? residual[(long)t * R0 + c] + normed : normed;
        }
    }
#endif
}
