// Norm, logits [T, E], and of the last block that is done with them each token's A best (ops.protocol.Routing): ids int32
// [T, A], weights [T, A]. x [T, D]; w [E, D]; bias, prior, gain [E] where the flags say so. `logits` [T, E] and `counter` [T],
// zero before and after, are the kernel's own.
//
// grid: (E / WARPS, T). An expert's rank is how many beat it, of equals those before it: E comparisons by each of E threads,
// exact and without a loop over A.

#define CHUNK (D < 8192 ? D : 8192)
#define MANY 1024  // experts at most

__device__ __forceinline__ float or_least(float x) { return x == x ? x : -INFINITE; }

extern "C" __global__ void __launch_bounds__(WARPS * 32) NAME(
    int* ids, float* weights, float* logits, u32* counter, const float* x, const float* norm,
    const u8* a, const u8* b, const u8* c, const u8* d, const float* bias, const float* prior, const float* gain) {
    __shared__ float xs[STAGED(CHUNK)];
    __shared__ float shared[32];
    __shared__ float scores[MANY], wanted[MANY], votes[MANY];
    __shared__ bool within[MANY];
    __shared__ float chosen[A];
    int t = blockIdx.y, expert = blockIdx.x * WARPS + WARP;
    x += (long)t * D;
    float scale = NORM ? norm_scale(x, D, EPS, shared) : 1.0f;
    float sum[1] = {};
    for (int from = 0; from < D; from += CHUNK) {
        int n = D - from < CHUNK ? D - from : CHUNK;
        __syncthreads();
        stage(xs, x + from, NORM ? norm + from : 0, scale, n);
        __syncthreads();
        add_dots<QR, 1>(Planes{a, b, c, d}, expert, E - expert, D, from, n, xs, sum);
    }
    float logit = warp_sum(sum[0]);
    if (LANE == 0 && expert < E) logits[(long)t * E + expert] = BIAS ? logit + bias[expert] : logit;
    if (!last_block(counter + t, gridDim.x)) return;

    const volatile float* all = logits + (long)t * E;  // other blocks wrote them
    float most = -INFINITE, total = 0;
    for (int e = LANE; e < E; e += 32) most = fmaxf(most, or_least(all[e]));
    most = warp_max(most);
    for (int e = LANE; e < E; e += 32) total += expf(or_least(all[e]) - most);
    total = warp_sum(total);
    for (int e = threadIdx.x; e < E; e += blockDim.x) {
        float l = or_least(all[e]);
        scores[e] = SIGMOID ? sigmoid(l) : expf(l - most) / total;
        wanted[e] = or_least(PRIOR ? scores[e] + prior[e] : SIGMOID ? scores[e] : l);
    }
    __syncthreads();
    if (GROUPS > 1) {
        const int each = E / GROUPS;
        for (int g = threadIdx.x; g < GROUPS; g += blockDim.x) {  // a group counts as the sum of its best
            float vote = 0;
            for (int i = 0; i < each; i++) {
                float mine = wanted[g * each + i];
                int rank = 0;
                for (int j = 0; j < each; j++) {
                    float other = wanted[g * each + j];
                    rank += other > mine || (other == mine && j < i);
                }
                if (rank < GROUP_SUM) vote += mine;
            }
            votes[g] = or_least(vote);
        }
        __syncthreads();
        for (int g = threadIdx.x; g < GROUPS; g += blockDim.x) {
            int rank = 0;
            for (int j = 0; j < GROUPS; j++) rank += votes[j] > votes[g] || (votes[j] == votes[g] && j < g);
            within[g] = rank < GROUPS_USED;
        }
        __syncthreads();
        for (int e = threadIdx.x; e < E; e += blockDim.x)
            if (!within[e / each]) wanted[e] = -INFINITE;
        __syncthreads();
    }
    for (int e = threadIdx.x; e < E; e += blockDim.x) {
        int rank = 0;
        for (int j = 0; j < E; j++) rank += wanted[j] > wanted[e] || (wanted[j] == wanted[e] && j < e);
        if (rank < A) ids[t * A + rank] = e, chosen[rank] = scores[e];
    }
    __syncthreads();
    float all_chosen = 0;
    for (int k = 0; k < A; k++) all_chosen += chosen[k];
    for (int k = threadIdx.x; k < A; k += blockDim.x) {
        float w = NORMALIZE ? chosen[k] / all_chosen : chosen[k];
        w *= SCALE;
        weights[t * A + k] = GAIN ? w * gain[ids[t * A + k]] : w;
    }
}
