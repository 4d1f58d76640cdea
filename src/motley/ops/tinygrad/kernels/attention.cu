// Attention of each token over its sequence's rows of the cache, the context cut into SPLITS parts that different blocks
// read; the last of them puts the parts together. q [T, H, N]; keys [rows, K N], values [rows, K M], float16 if HALF;
// with ONE the values are the keys' first M elements, and `values` is `keys`. base [T]: the sequence's first row; first, position [T]: what is seen, both included; sinks [H] if SINKS. out [T, H, M];
// if GATED times the sigmoid of gate, which has an element of each at `spread(.., GATE_FIRST, GATE_GROUP, GATE_WIDTH)` of rows of
// GATE_ROW.
// parts [T, H, SPLITS, M + 2] and counter [T, H / GROUP], zero before and after, are the kernel's own.
//
// grid: (H / GROUP, T, SPLITS): GROUP heads that share a key head read it once (grouped-query: GROUP divides H / K; latent
// attention has K = 1). The limit is the cache's bytes: (N + M) x 2 a position and key head.
//
// In a warp each lane scores a position of its own, 32 at a time (its key's bytes come by whole lines, and q from shared
// memory at one address for all), so a softmax over them costs two reductions and not one for each position; then lanes
// share the columns of the values.

typedef Cached<HALF> Cache;
typedef Cache::Kept Kept;

#define VALUE_ROW (ONE ? N : M)  // elements of the cache from one head's values to the next's
#define EACH ((M + 31) / 32)  // columns of the values a lane has

extern "C" __global__ void __launch_bounds__(WARPS * 32) NAME(
    float* out, float* parts, u32* counter, const float* q, const Kept* keys, const Kept* values, const int* base,
    const int* first, const int* position, const float* sinks, const float* gate) {
    __shared__ float queries[GROUP * N];
    __shared__ float tops[WARPS][GROUP], totals[WARPS][GROUP];
    __shared__ float sums[WARPS][GROUP][M];
    int t = blockIdx.y, split = blockIdx.z, h0 = blockIdx.x * GROUP, k = h0 / (H / K);
    for (int i = threadIdx.x; i < GROUP * N; i += blockDim.x) queries[i] = q[((long)t * H + h0) * N + i] * SCALE;
    __syncthreads();

    int from = first[t], seen = position[t] + 1 - from;
    int share = ((seen + SPLITS - 1) / SPLITS + 31) / 32 * 32;
    int begin = from + split * share, end = begin + share < from + seen ? begin + share : from + seen;
    float top[GROUP], total[GROUP], sum[GROUP][EACH] = {};
#pragma unroll
    for (int g = 0; g < GROUP; g++) top[g] = -INFINITE, total[g] = 0;

    for (int s0 = begin + WARP * 32; s0 < end; s0 += WARPS * 32) {
        int s = s0 + LANE;
        float score[GROUP];
#pragma unroll
        for (int g = 0; g < GROUP; g++) score[g] = 0;
        if (s < end) {
            const Kept* key = keys + (long)(base[t] + s) * (K * N) + k * N;
#if HALF && N % 8 == 0
            for (int i = 0; i < N; i += 8) {
                Words words = *(const Words*)(key + i);
#pragma unroll
                for (int j = 0; j < 8; j++) {
                    float x = half_to_float((u16)(words.w[j >> 1] >> (j & 1) * 16));
#pragma unroll
                    for (int g = 0; g < GROUP; g++) score[g] += queries[g * N + i + j] * x;
                }
            }
#else
            for (int i = 0; i < N; i++) {
                float x = Cache::read(key[i]);
#pragma unroll
                for (int g = 0; g < GROUP; g++) score[g] += queries[g * N + i] * x;
            }
#endif
        }
#pragma unroll
        for (int g = 0; g < GROUP; g++) {
            if (s >= end) score[g] = -INFINITE;
            float most = fmaxf(top[g], warp_max(score[g]));
            float fade = expf(top[g] - most);  // 0 at first: exp(-inf)
            score[g] = s < end ? expf(score[g] - most) : 0.0f;
            total[g] = total[g] * fade + warp_sum(score[g]);
            top[g] = most;
#pragma unroll
            for (int i = 0; i < EACH; i++) sum[g][i] *= fade;
        }
        for (int j = 0; j < 32 && s0 + j < end; j++) {
            const Kept* value = values + (long)(base[t] + s0 + j) * (K * VALUE_ROW) + k * VALUE_ROW;
            float odds[GROUP];
#pragma unroll
            for (int g = 0; g < GROUP; g++) odds[g] = shuffle_from(score[g], j);
#pragma unroll
            for (int i = 0; i < EACH; i++) {
                int m = i * 32 + LANE;
                float x = m < M ? Cache::read(value[m]) : 0.0f;
#pragma unroll
                for (int g = 0; g < GROUP; g++) sum[g][i] += odds[g] * x;
            }
        }
    }
#pragma unroll
    for (int g = 0; g < GROUP; g++) {
        if (LANE == 0) tops[WARP][g] = top[g], totals[WARP][g] = total[g];
#pragma unroll
        for (int i = 0; i < EACH; i++)
            if (i * 32 + LANE < M) sums[WARP][g][i * 32 + LANE] = sum[g][i];
    }
    __syncthreads();
#pragma unroll
    for (int g = 0; g < GROUP; g++) {  // the warps' into the block's
        float most = -INFINITE, all = 0;
        for (int w = 0; w < WARPS; w++) most = fmaxf(most, tops[w][g]);
        float* part = parts + (((long)t * H + h0 + g) * SPLITS + split) * (M + 2);
        for (int w = 0; w < WARPS; w++) all += totals[w][g] > 0 ? totals[w][g] * expf(tops[w][g] - most) : 0.0f;
        for (int m = threadIdx.x; m < M; m += blockDim.x) {
            float x = 0;
            for (int w = 0; w < WARPS; w++)
                if (totals[w][g] > 0) x += sums[w][g][m] * expf(tops[w][g] - most);
            part[2 + m] = x;
        }
        if (threadIdx.x == 0) part[0] = most, part[1] = all;
    }
    if (!last_block(counter + t * (H / GROUP) + blockIdx.x, SPLITS)) return;
#pragma unroll
    for (int g = 0; g < GROUP; g++) {
        const volatile float* all = parts + ((long)t * H + h0 + g) * SPLITS * (M + 2);  // other blocks wrote them
        float most = SINKS ? sinks[h0 + g] : -INFINITE, odds = 0;
        for (int p = 0; p < SPLITS; p++)
            if (all[p * (M + 2) + 1] > 0) most = fmaxf(most, all[p * (M + 2)]);
        for (int p = 0; p < SPLITS; p++)
            if (all[p * (M + 2) + 1] > 0) odds += all[p * (M + 2) + 1] * expf(all[p * (M + 2)] - most);
        if (SINKS) odds += expf(sinks[h0 + g] - most);
        for (int m = threadIdx.x; m < M; m += blockDim.x) {
            float x = 0;
            for (int p = 0; p < SPLITS; p++)
                if (all[p * (M + 2) + 1] > 0) x += all[p * (M + 2) + 2 + m] * expf(all[p * (M + 2)] - most);
            int e = (h0 + g) * M + m;
            if (GATED) x *= sigmoid(gate[(long)t * GATE_ROW + spread(e, GATE_FIRST, GATE_GROUP, GATE_WIDTH)]);
            out[(long)t * (H * M) + e] = x / odds;
        }
    }
}
