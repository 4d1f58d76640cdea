// One gated delta rule layer between its projections and its output matrix (ops.protocol.Ops.delta_net): the convolution over the
// last TAPS inputs and silu; q and k to unit length; of each value head's state S [N, M]: S *= exp(rate softplus(keep + dt)),
// S += sigmoid(write) k (v - S k), y = S q; with GATED y normed over each head by norm [M] and times silu(z). Several tokens of a
// sequence one after the other, with its state in registers meanwhile.
//
// qkv [T, C], C = 2 K N + V M, from QKV_FIRST on of rows of QKV_ROW, z [T, V M] likewise; write, keep: a number of each value head at
// `spread(..)` of rows; conv [C, TAPS], dt, rate [V]; slots int32 [T]: those of one sequence are neighbours, SLOTS is padding, whose
// out is not written; fresh int32 [T]: 1 where a sequence begins, at its first token here only. states [SLOTS + 1, V, N, M] and inputs
// [SLOTS + 1, TAPS - 1, C], the latest last, are changed in place. out [T, V M]. raw [T, V M] and counter [T, K], zero before and
// after, are the kernel's own. Value head i uses key head i / (V / K), or i % K if TILED.
//
// grid: (V PARTS, T): a block has 32 columns of a head's state, of the sequence that begins at its token; a thread N / WARPS rows of
// one (64 at most, as they are registers). The columns' own inputs are remembered by that block; those of q and k, which the
// blocks of a key head all read, by the last of these to finish, which also norms and gates. The limit is the state: 8 N M bytes
// a value head, read once and written once.

#define PARTS ((M + 31) / 32)
#define EACH ((N + WARPS - 1) / WARPS)
#define SHARING (V / K)
#define CHANNELS (2 * K * N + V * M)

struct Run {  // of a sequence's tokens here: [first, end)
    const float *qkv, *conv;
    float* inputs;  // its own
    int first, end;
    bool fresh;

    // Channel `c` of token `t`, which may come before the run.
    __device__ __forceinline__ float input(int c, int t) const {
        if (t >= first) return qkv[(long)t * QKV_ROW + QKV_FIRST + c];
        return fresh ? 0.0f : inputs[(long)(TAPS - 1 + t - first) * CHANNELS + c];
    }
    __device__ __forceinline__ float mixed(int c, int t) const {
        float sum = 0;
#pragma unroll
        for (int j = 0; j < TAPS; j++) sum += input(c, t - (TAPS - 1) + j) * conv[c * TAPS + j];
        return sum * sigmoid(sum);
    }
    // One thread alone for each channel, when nobody reads it any more; rows move towards the front, the first one first.
    __device__ __forceinline__ void remember(int c) const {
#pragma unroll
        for (int i = 0; i < TAPS - 1; i++) inputs[(long)i * CHANNELS + c] = input(c, end - (TAPS - 1) + i);
    }
};

__device__ __forceinline__ float softplus(float x) { return fmaxf(x, 0.0f) + log1pf(expf(-fabsf(x))); }

extern "C" __global__ void __launch_bounds__(WARPS * 32) NAME(
    float* out, float* states, float* inputs, float* raw, u32* counter, const float* qkv, const float* conv,
    const float* write, const float* keep, const float* dt, const float* rate, const float* norm, const float* z,
    const int* slots, const int* fresh) {
    __shared__ float query[N], key[N];
    __shared__ float value[32], shared[32];
    __shared__ float found[WARPS][32], given[WARPS][32];
    int h = blockIdx.x / PARTS, m = blockIdx.x % PARTS * 32 + LANE, slot = slots[blockIdx.y];
    int key_head = TILED ? h % K : h / SHARING;
    Run run = {qkv, conv, inputs + (long)slot * (TAPS - 1) * CHANNELS, (int)blockIdx.y, (int)blockIdx.y + 1, fresh[blockIdx.y] != 0};
    if (slot == SLOTS || (run.first > 0 && slots[run.first - 1] == slot)) return;  // all of the block
    while (run.end < T && slots[run.end] == slot) run.end++;

    float* state = states + ((long)slot * V + h) * (N * M);
    float s[EACH];
#pragma unroll
    for (int i = 0; i < EACH; i++) {
        int n = i * WARPS + WARP;
        s[i] = n < N && m < M && !run.fresh ? state[n * M + m] : 0.0f;
    }
    for (int t = run.first; t < run.end; t++) {
        float of_q = 0, of_k = 0;
        __syncthreads();  // the token before is done
        for (int n = threadIdx.x; n < N; n += blockDim.x) {
            float q = run.mixed(key_head * N + n, t), k = run.mixed((K + key_head) * N + n, t);
            query[n] = q, key[n] = k;
            of_q += q * q, of_k += k * k;
        }
        if (WARP == WARPS - 1) value[LANE] = m < M ? run.mixed(2 * K * N + h * M + m, t) : 0.0f;
        of_q = 1.0f / sqrtf(block_sum(of_q, shared) + NET_EPS) / sqrtf((float)N);
        of_k = 1.0f / sqrtf(block_sum(of_k, shared) + NET_EPS);
        float writes = sigmoid(write[(long)t * WRITE_ROW + spread(h, WRITE_FIRST, WRITE_GROUP, WRITE_WIDTH)]);
        float keeps = keep[(long)t * KEEP_ROW + spread(h, KEEP_FIRST, KEEP_GROUP, KEEP_WIDTH)];
        keeps = expf(rate[h] * softplus(keeps + dt[h]));

        float sum = 0;
#pragma unroll
        for (int i = 0; i < EACH; i++) {
            int n = i * WARPS + WARP;
            s[i] *= keeps;
            if (n < N) sum += key[n] * of_k * s[i];
        }
        found[WARP][LANE] = sum;
        __syncthreads();
        sum = 0;
        for (int w = 0; w < WARPS; w++) sum += found[w][LANE];
        float change = (value[LANE] - sum) * writes;
        sum = 0;
#pragma unroll
        for (int i = 0; i < EACH; i++) {
            int n = i * WARPS + WARP;
            if (n >= N) continue;
            s[i] += key[n] * of_k * change;
            sum += query[n] * of_q * s[i];
        }
        given[WARP][LANE] = sum;
        __syncthreads();
        if (WARP || m >= M) continue;
        sum = 0;
        for (int w = 0; w < WARPS; w++) sum += given[w][LANE];
        raw[(long)t * (V * M) + h * M + m] = sum;
    }
#pragma unroll
    for (int i = 0; i < EACH; i++) {
        int n = i * WARPS + WARP;
        if (n < N && m < M) state[n * M + m] = s[i];
    }
    if (WARP == WARPS - 1 && m < M) run.remember(2 * K * N + h * M + m);  // the lane that read it
    if (!last_block(counter + run.first * K + key_head, SHARING * PARTS)) return;

    for (int n = threadIdx.x; n < N; n += blockDim.x)
        run.remember(key_head * N + n), run.remember((K + key_head) * N + n);
    for (int t = run.first; t < run.end; t++)
        for (int i = 0; i < SHARING; i++) {
            int at = (TILED ? i * K + key_head : key_head * SHARING + i) * M;
            const volatile float* y = raw + (long)t * (V * M) + at;  // other blocks wrote it
            float scale = GATED ? norm_scale(y, M, EPS, shared) : 1.0f;
            for (int c = threadIdx.x; c < M; c += blockDim.x) {
                float x = y[c] * scale;
                if (GATED) {
                    float by = z[(long)t * Z_ROW + Z_FIRST + at + c];
                    x *= norm[c] * (by * sigmoid(by));
                }
                out[(long)t * (V * M) + at + c] = x;
            }
        }
}
