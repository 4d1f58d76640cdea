// What comes between DeepSeek's low-rank products and attention over latents. Of each head of each token the query [NOPE + DIM]:
// if RANK is not 0 x [T, RANK] (normed if NORM) times the head's rows of q_b [H (NOPE + DIM), RANK], else x itself; its first
// part taken into the latent space by k_b [H, R, NOPE], its last one turned by rope: q [T, H, R + DIM]. And the token's row of the cache, keys
// [rows, R + DIM], float16 if HALF: kv [T, R + DIM], its latent normed, the rest turned. x and kv begin at XFIRST and
// KVFIRST of rows of XROW and KVROW. raw [T, H, NOPE + DIM] and counter [T, H], zero before and after, are the kernel's own.
//
// grid: (H BLOCKS + 1, T). A head's BLOCKS share q_b's rows; the last to finish takes the head's query into the latent space:
// NOPE x R weights for one block, while as many others do the same for other heads.

#define N (NOPE + DIM)
#define LANES LANES_OF(NOPE)
#define CHUNK (RANK < 8192 ? RANK : 8192)
#define BLOCKS (RANK ? (N + WARPS * ROWS - 1) / (WARPS * ROWS) : 1)

typedef Cached<HALF> Cache;
typedef Cache::Kept Kept;

extern "C" __global__ void __launch_bounds__(WARPS * 32) NAME(
    float* q, Kept* keys, float* raw, u32* counter, const float* x, const float* norm,
    const u8* qa, const u8* qb, const u8* qc, const u8* qd,
    const u8* ka, const u8* kb, const u8* kc, const u8* kd,
    const float* kv, const float* kv_norm, const float* turn, const int* place) {
    __shared__ float xs[STAGED(CHUNK) + STAGED(NOPE)];
    __shared__ float tail[DIM];
    __shared__ float shared[32];
    int t = blockIdx.y, h = blockIdx.x / BLOCKS;
    turn += (long)t * DIM;
    if (h == H) {
        kv += (long)t * KVROW + KVFIRST;
        Kept* key = keys + (long)place[t] * (R + DIM);
        float scale = norm_scale(kv, R, KV_EPS, shared);
        for (int i = threadIdx.x; i < R; i += blockDim.x) key[i] = Cache::kept(kv[i] * scale * kv_norm[i]);
        for (int i = threadIdx.x; i < DIM; i += blockDim.x)
            key[R + i] = Cache::kept(turned(kv + R, i, DIM, INTERLEAVED, turn));
        return;
    }
    x += (long)t * XROW + XFIRST;
    raw += ((long)t * H + h) * N;
    if (RANK) {
        int row = (blockIdx.x % BLOCKS * WARPS + WARP) * ROWS;
        float scale = NORM ? norm_scale(x, RANK, EPS, shared) : 1.0f, sums[ROWS] = {};
        for (int from = 0; from < RANK; from += CHUNK) {
            int n = RANK - from < CHUNK ? RANK - from : CHUNK;
            __syncthreads();
            stage(xs, x + from, NORM ? norm + from : 0, scale, n);
            __syncthreads();
            add_dots<QQ, ROWS>(Planes{qa, qb, qc, qd}, (long)h * N + row, N - row, RANK, from, n, xs, sums);
        }
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            float sum = warp_sum(sums[r]);
            if (LANE == 0 && row + r < N) raw[row + r] = sum;
        }
        if (!last_block(counter + t * H + h, BLOCKS)) return;
    }
    const volatile float* query = RANK ? raw : x + h * N;  // other blocks wrote it
    float* head = xs + STAGED(CHUNK);
    for (int i = threadIdx.x; i < UNITS(NOPE) * 32; i += blockDim.x) head[staged(i)] = i < NOPE ? query[i] : 0.0f;
    for (int i = threadIdx.x; i < DIM; i += blockDim.x) tail[i] = query[NOPE + i];
    __syncthreads();
    q += ((long)t * H + h) * (R + DIM);
    for (int i = threadIdx.x; i < DIM; i += blockDim.x) q[R + i] = turned(tail, i, DIM, INTERLEAVED, turn);
#pragma unroll 4
    for (int first = WARP * (32 / LANES); first < R; first += WARPS * (32 / LANES)) {
        int row = first + LANE / LANES;
        float sum = short_dot<QK, LANES>(Planes{ka, kb, kc, kd}, (long)h * R + row, row < R, NOPE, head);
        if (LANE % LANES == 0 && row < R) q[row] = sum;
    }
}
