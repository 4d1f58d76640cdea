// hidden = activation(gate x, up x) of each token's A chosen experts [T, A, F], and behind them of the matrices that all tokens
// use [T, FS], if FS is not 0: shared experts, or with A = 0 a dense block. x [T, D], normed if NORM; gate, up [owned, F, D];
// shared_gate, shared_up [FS, D]; ids int32 [T, A]; local int32 [E]: an expert's place, or -1. What is not here is not
// written, nor read later. With GATED one more number a token behind all that: gate_row [D] . x. With
// OWN_NORM what is beside the experts is normed by beside_norm [D] instead; with SCALED the experts' x is times factor [T].
//
// grid: (the wider of F and FS / (WARPS ROWS), T (A and one each for FS and GATED)). Only the chosen experts' bytes are read: 2 F D
// of them for each pair, the kernel's limit.

#define CHUNK (D < 8192 ? D : 8192)

template <int G, int U>
__device__ __forceinline__ void both_dots(
    const Planes& gate, const Planes& up, long first, int rows, int from, int n, const float* xs, float* gates, float* ups) {
    add_dots<G, ROWS>(gate, first, rows, D, from, n, xs, gates);
    add_dots<U, ROWS>(up, first, rows, D, from, n, xs, ups);
}

extern "C" __global__ void __launch_bounds__(WARPS * 32) NAME(
    float* hidden, const float* x, const float* norm, const float* beside_norm, const float* factor,
    const int* ids, const int* local,
    const u8* ga, const u8* gb, const u8* gc, const u8* gd,
    const u8* ua, const u8* ub, const u8* uc, const u8* ud,
    const float* gate_bias, const float* up_bias,
    const u8* sga, const u8* sgb, const u8* sgc, const u8* sgd,
    const u8* sua, const u8* sub, const u8* suc, const u8* sud,
    const u8* ra, const u8* rb, const u8* rc, const u8* rd) {
    __shared__ float xs[STAGED(CHUNK)];
    __shared__ float shared[32];
    const int each = A + (FS > 0) + GATED;
    int t = blockIdx.y / each, k = blockIdx.y % each, row = (blockIdx.x * WARPS + WARP) * ROWS;
    bool is_gate = GATED && k == each - 1, is_shared = !is_gate && k == A;
    int width = is_gate ? 1 : is_shared ? FS : F, id = k < A ? ids[t * A + k] : -1;
    int expert = id < 0 ? -1 : local[id];
    if (blockIdx.x * WARPS * ROWS >= width || (k < A && expert < 0)) return;  // all of the block
    x += (long)t * D;
    if (OWN_NORM && k >= A) norm = beside_norm;
    float scale = NORM ? norm_scale(x, D, EPS, shared) : 1.0f;
    float gates[ROWS] = {}, ups[ROWS] = {};
    for (int from = 0; from < D; from += CHUNK) {
        int n = D - from < CHUNK ? D - from : CHUNK;
        __syncthreads();
        stage(xs, x + from, NORM ? norm + from : 0, scale, n);
        __syncthreads();
        if (is_gate)
            add_dots<QR, ROWS>(Planes{ra, rb, rc, rd}, row, 1 - row, D, from, n, xs, gates);
        else if (is_shared)
            both_dots<SG, SU>(
                Planes{sga, sgb, sgc, sgd}, Planes{sua, sub, suc, sud}, row, FS - row, from, n, xs, gates, ups);
        else
            both_dots<QG, QU>(
                Planes{ga, gb, gc, gd}, Planes{ua, ub, uc, ud}, (long)expert * F + row, F - row, from, n, xs, gates, ups);
    }
    float* to = hidden + (is_gate ? (long)T * (A * F + FS) + t
                          : is_shared ? (long)T * A * F + (long)t * FS : ((long)t * A + k) * F);
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
        float g = warp_sum(gates[r]), u = warp_sum(ups[r]);
        if (LANE || row + r >= width) continue;
        if (SCALED && k < A) g *= factor[t], u *= factor[t];
        if (BIAS && k < A) g += gate_bias[(long)id * F + row + r], u += up_bias[(long)id * F + row + r];
        to[row + r] = is_gate ? g : activated(ACTIVATION, g, u);
    }
}
