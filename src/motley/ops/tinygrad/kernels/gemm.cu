// Grouped product on tensor cores, for prefill: for each tile of 64 rows of one expert, y [pair, ROWS_W] = x [pair / SHARE] times
// its matrix [ROWS_W, COLS] transposed; with GATE_UP two matrices, and y is activation(gate, up). `order`, `tile`: see
// group.cu; without experts (OWNED 0) rows follow each other and there is one matrix. Activations and decoded weights are
// rounded to bfloat16, sums are float32.
//
// grid: (ROWS_W / (GATE_UP ? 64 : 128), tiles). A block of four warps makes 64 x 128 outputs (with GATE_UP 64 x 64 of each
// matrix); a step is one unit of 32 columns: each thread decodes one row's unit into shared memory, so that a weight is
// decoded once for 64 tokens. Warps: two of rows, two of columns, each 32 x 64 = 2 x 8 tensor tiles.
//
// Shared words (two bfloat16) of a row of 32: 16 and 4 more, so that the fragments' reads (8 rows x 4 words) hit 32 banks.

#define PITCH 20
#define WIDTH (GATE_UP ? 64 : 128)

template <int QUANT>
__device__ __forceinline__ void decode_into(u32* to, const Planes& w, long row, int u) {
    float v[32];
    unit_of<QUANT>(w, row, u, COLS, v);
#pragma unroll
    for (int i = 0; i < 16; i++) to[i] = pack_bf16(v[2 * i], v[2 * i + 1]);
}

extern "C" __global__ void __launch_bounds__(128) NAME(
    float* y, const float* x, const int* order, const int* tile,
    const u8* ga, const u8* gb, const u8* gc, const u8* gd,
    const u8* ua, const u8* ub, const u8* uc, const u8* ud, const float* gate_bias, const float* up_bias,
    const int* owned) {
    __shared__ u32 left[64 * PITCH], right[128 * PITCH];
    __shared__ int pairs[64];
    int expert = OWNED ? tile[blockIdx.y] : 0;
    if (expert < 0) return;  // all of the block
    for (int i = threadIdx.x; i < 64; i += blockDim.x) {
        int row = blockIdx.y * 64 + i;
        pairs[i] = OWNED ? order[row] : row < T ? row : -1;
    }
    __syncthreads();
    // The block's 128 rows of weights: with GATE_UP 32 of gate, 32 of up, 32 of gate, 32 of up, so that a thread's outputs
    // of both matrices are of the same rows.
    int mine = threadIdx.x, f0 = blockIdx.x * WIDTH;
    int weight_row = f0 + (GATE_UP ? mine / 64 * 32 + mine % 32 : mine);
    bool is_up = GATE_UP && mine % 64 >= 32;
    int m0 = (WARP >> 1) * 32, n0 = (WARP & 1) * 64, g = LANE >> 2, i4 = LANE & 3;
    float c[2][8][4] = {};

    for (int u = 0; u < UNITS(COLS); u++) {
        for (int i = threadIdx.x; i < 64 * 16; i += blockDim.x) {
            int r = i >> 4, w = i & 15, pair = pairs[r];
            int c = u * 32 + 2 * w;
            const float* from = x + (long)(pair < 0 ? 0 : pair / SHARE) * COLS + c;
            bool both[2] = {COLS % 32 == 0 || c < COLS, COLS % 32 == 0 || c + 1 < COLS};
            left[r * PITCH + w] = pair < 0 ? 0u : pack_bf16(both[0] ? from[0] : 0.0f, both[1] ? from[1] : 0.0f);
        }
        u32* to = right + mine * PITCH;
        if (weight_row >= ROWS_W)
#pragma unroll
            for (int i = 0; i < 16; i++) to[i] = 0;
        else if (is_up)
            decode_into<QU>(to, Planes{ua, ub, uc, ud}, (long)expert * ROWS_W + weight_row, u);
        else
            decode_into<QG>(to, Planes{ga, gb, gc, gd}, (long)expert * ROWS_W + weight_row, u);
        __syncthreads();
#pragma unroll
        for (int half = 0; half < 2; half++) {  // 16 columns each
            u32 a[2][4];
#pragma unroll
            for (int m = 0; m < 2; m++)
#pragma unroll
                for (int i = 0; i < 4; i++)
                    a[m][i] = left[(m0 + m * 16 + g + (i & 1) * 8) * PITCH + half * 8 + i4 + (i >> 1) * 4];
#pragma unroll
            for (int n = 0; n < 8; n++) {
                const u32* from = right + (n0 + n * 8 + g) * PITCH + half * 8 + i4;
                u32 b[2] = {from[0], from[4]};
#pragma unroll
                for (int m = 0; m < 2; m++) multiply_tiles(c[m][n], a[m], b);
            }
        }
        __syncthreads();
    }
#pragma unroll
    for (int m = 0; m < 2; m++)
#pragma unroll
        for (int n = 0; n < (GATE_UP ? 4 : 8); n++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                int pair = pairs[m0 + m * 16 + g + (i >> 1) * 8];
                int f = f0 + (GATE_UP ? n0 / 2 : n0) + n * 8 + 2 * i4 + (i & 1);
                if (pair < 0 || f >= ROWS_W) continue;
                float value = c[m][n][i];
                long id = BIAS ? owned[expert] : 0;
                if (BIAS) value += gate_bias[id * ROWS_W + f];
                if (GATE_UP) {
                    float up = c[m][n + 4][i];
                    if (BIAS) up += up_bias[id * ROWS_W + f];
                    value = activated(ACTIVATION, value, up);
                }
                y[(long)pair * ROWS_W + f] = value;
            }
}
