// What comes between the projections and attention, a block for each head of each token: q and k normed over each head if
// NORM (over all of them if WHOLE: every block sums them anew) and turned by rope, k and v stored into the cache. With BIAS vectors are
// added before all that (not with WHOLE). qkv [T, H N + K N + K M]; q [T, H N] out; keys [rows, K N], values [rows, K M],
// float16 if HALF; place int32 [T]: the cache's row; turn [T, 2, DIM / 2]: cosines and sines.
//
// grid: (H + K + K, T). A few KB in all: the launch is what it costs.

#define WIDEST (N > M ? N : M)

typedef Cached<HALF> Cache;
typedef Cache::Kept Kept;

extern "C" __global__ void __launch_bounds__(128) NAME(
    float* q, Kept* keys, Kept* values, const float* qkv, const float* q_norm, const float* k_norm, const float* turn,
    const int* place, const float* q_bias, const float* k_bias, const float* v_bias) {
    __shared__ float head[WIDEST];
    __shared__ float shared[32];
    int t = blockIdx.y, h = blockIdx.x;
    qkv += (long)t * (H * N + K * N + K * M);
    long row = place[t];
    if (h >= H + K) {
        int v = h - H - K;
        for (int i = threadIdx.x; i < M; i += blockDim.x)
            values[row * (K * M) + v * M + i] = Cache::kept(qkv[H * N + K * N + v * M + i] + (BIAS ? v_bias[v * M + i] : 0));
        return;
    }
    const float* from = qkv + h * N;  // k's heads follow q's
    const float* norm = h < H ? q_norm : k_norm;
    if (WHOLE) norm += (h < H ? h : h - H) * N;
    const float* bias = h < H ? q_bias + h * N : k_bias + (h - H) * N;
    for (int i = threadIdx.x; i < N; i += blockDim.x) head[i] = BIAS ? from[i] + bias[i] : from[i];
    __syncthreads();
    if (NORM) {
        const float* all = WHOLE ? (h < H ? qkv : qkv + H * N) : head;
        float scale = norm_scale(all, WHOLE ? (h < H ? H * N : K * N) : N, EPS, shared);
        __syncthreads();
        for (int i = threadIdx.x; i < N; i += blockDim.x) head[i] = head[i] * scale * norm[i];
        __syncthreads();
    }
    for (int i = threadIdx.x; i < N; i += blockDim.x) {
        bool turns = i >= START && i < START + DIM;
        float y = turns ? turned(head + START, i - START, DIM, INTERLEAVED, turn + (long)t * DIM) : head[i];
        if (h < H)
            q[(long)t * (H * N) + h * N + i] = y;
        else
            keys[row * (K * N) + (h - H) * N + i] = Cache::kept(y);
    }
}
