// Sorts T A chosen (token, expert) pairs by expert into tiles of TILE rows, each of one expert: order int32 [TILES, TILE]: a
// pair, or -1; tile int32 [TILES]: its expert's place among the owned, or -1 for a tile that is not used. TILES = T A / TILE +
// OWNED is enough, or T A if that is less. Pairs of one expert keep their order.
//
// grid: 1. Each owned expert has a thread, which reads all pairs twice, one after the other: 2 T A steps of a block that is alone on
// its card, whose other threads wait. For 2,048 tokens of 8 experts that is more than a launch (docs/gpu-todo.md).

extern "C" __global__ void __launch_bounds__(256) NAME(int* order, int* tile, const int* ids, const int* local) {
    __shared__ int first[OWNED + 1];  // an expert's first row
    const int pairs = T * A;
    for (int i = threadIdx.x; i < TILES * TILE; i += blockDim.x) order[i] = -1;
    for (int i = threadIdx.x; i < TILES; i += blockDim.x) tile[i] = -1;
    for (int e = threadIdx.x; e < OWNED; e += blockDim.x) {
        int n = 0;
        for (int p = 0; p < pairs; p++) n += ids[p] >= 0 && local[ids[p]] == e;
        first[e + 1] = (n + TILE - 1) / TILE * TILE;
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        first[0] = 0;
        for (int e = 0; e < OWNED; e++) first[e + 1] += first[e];
    }
    __syncthreads();
    for (int e = threadIdx.x; e < OWNED; e += blockDim.x) {
        int at = first[e];
        for (int p = 0; p < pairs; p++)
            if (ids[p] >= 0 && local[ids[p]] == e) order[at++] = p;
        for (int r = first[e]; r < first[e + 1]; r += TILE) tile[r / TILE] = e;
    }
}
