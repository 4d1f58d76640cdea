// What comes between the projections and attention, a block for each head of each token: q and k normed over each head if
// NORM (over all of them if WHOLE: every block sums them anew), before they are turned by rope or AFTER it; q times temper [T] if
// TEMPER; v normed over each head if VALUE_NORM; k and v stored into the cache. With BIAS vectors are added before all that (not
// with WHOLE). qkv [T, H QWIDTH + K N + K M], of which q's heads are the first N of each QWIDTH; q [T, H N] out; keys [rows, K N],
// values [rows, K M], float16 if HALF; place int32 [T]: the cache's row; turn [T, 2, DIM / 2]: cosines and sines.
//
// grid: (H + K + K, T). A few KB in all: the launch is what it costs.

#define WIDEST (N > M ? N : M)
#define ROW (H * QWIDTH + K * N + K * M)

typedef Cached<HALF> Cache;
typedef Cache::Kept Kept;

// head [n] of shared memory, by all threads of the block together, which wait before and behind it.
__device__ __forceinline__ void norm_head(float* head, const float* norm, int n, float scale) {
    __syncthreads();
    for (int i = threadIdx.x; i < n; i += blockDim.x) head[i] = head[i] * scale * norm[i];
    __syncthreads();
}

extern "C" __global__ void __launch_bounds__(128) NAME(
    float* q, Kept* keys, Kept* values, const float* qkv, const float* q_norm, const float* k_norm, const float* v_norm,
    const float* turn, const float* temper, const int* place, const float* q_bias, const float* k_bias, const float* v_bias) {
    __shared__ float head[WIDEST];
    __shared__ float shared[32];
    int t = blockIdx.y, h = blockIdx.x;
    qkv += (long)t * ROW;
    long row = place[t];
    if (h >= H + K) {
        int v = (h - H - K) * M;
        for (int i = threadIdx.x; i < M; i += blockDim.x)
            head[i] = qkv[H * QWIDTH + K * N + v + i] + (BIAS ? v_bias[v + i] : 0.0f);
        __syncthreads();
        if (VALUE_NORM) norm_head(head, v_norm, M, norm_scale((const float*)head, M, VALUE_EPS, shared));
        for (int i = threadIdx.x; i < M; i += blockDim.x) values[row * (K * M) + v + i] = Cache::kept(head[i]);
        return;
    }
    bool is_q = h < H;
    const float* from = is_q ? qkv + h * QWIDTH : qkv + H * QWIDTH + (h - H) * N;
    const float* norm = is_q ? q_norm : k_norm;
    if (WHOLE) norm += (is_q ? h : h - H) * N;
    const float* bias = is_q ? q_bias + h * N : k_bias + (h - H) * N;
    for (int i = threadIdx.x; i < N; i += blockDim.x) head[i] = BIAS ? from[i] + bias[i] : from[i];
    __syncthreads();
    if (NORM && !AFTER) {
        const float* all = WHOLE ? (is_q ? qkv : qkv + H * N) : head;
        norm_head(head, norm, N, norm_scale(all, WHOLE ? (is_q ? H * N : K * N) : N, EPS, shared));
    }
    float mine[(N + 127) / 128];  // turned: into shared memory when all have read theirs
#pragma unroll
    for (int j = 0; j < (N + 127) / 128; j++) {
        int i = j * 128 + threadIdx.x;
        bool turns = i >= START && i < START + DIM;
        if (i < N) mine[j] = turns ? turned(head + START, i - START, DIM, INTERLEAVED, turn + (long)t * DIM) : head[i];
    }
    if (NORM && AFTER) {
        __syncthreads();
#pragma unroll
        for (int j = 0; j < (N + 127) / 128; j++)
            if (j * 128 + threadIdx.x < N) head[j * 128 + threadIdx.x] = mine[j];
        __syncthreads();
        norm_head(head, norm, N, norm_scale((const float*)head, N, EPS, shared));
#pragma unroll
        for (int j = 0; j < (N + 127) / 128; j++)
            if (j * 128 + threadIdx.x < N) mine[j] = head[j * 128 + threadIdx.x];
    }
#pragma unroll
    for (int j = 0; j < (N + 127) / 128; j++) {
        int i = j * 128 + threadIdx.x;
        if (i >= N) continue;
        if (is_q)
            q[(long)t * (H * N) + h * N + i] = TEMPER ? mine[j] * temper[t] : mine[j];
        else
            keys[row * (K * N) + (h - H) * N + i] = Cache::kept(mine[j]);
    }
}
