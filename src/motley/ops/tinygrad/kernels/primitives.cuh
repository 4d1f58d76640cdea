// What the kernels need of the hardware, and nothing else: everything behind this file is plain C++, which the tests
// also compile for the CPU (tests/parity/cuda_emulation/emulation.h has the same names). No header is included: nvrtc has none.

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;

#define LANE (threadIdx.x & 31)
#define WARP (threadIdx.x >> 5)
#define INFINITE bits_to_float(0x7f800000u)

__device__ __forceinline__ float half_to_float(u16 h) {
    float f;
    asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"(h));
    return f;
}

__device__ __forceinline__ u16 float_to_half(float f) {
    u16 h;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(h) : "f"(f));
    return h;
}

// Two bfloat16 in a word, `low` in its low half.
__device__ __forceinline__ u32 pack_bf16(float low, float high) {
    u32 word;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
    return word;
}

__device__ __forceinline__ float bits_to_float(u32 bits) { return __uint_as_float(bits); }

__device__ __forceinline__ float shuffle_xor(float x, int by) { return __shfl_xor_sync(0xffffffffu, x, by); }

__device__ __forceinline__ float shuffle_from(float x, int lane) { return __shfl_sync(0xffffffffu, x, lane); }

// c [16, 8] += a [16, 16] b [16, 8], a warp together, fragments as the PTX manual has them for m16n8k16: with g = lane / 4
// and i = lane % 4, a holds rows g, g + 8, g, g + 8 at columns 2i, 2i, 2i + 8, 2i + 8 (two each); b rows 2i and 2i + 8 (two
// each) of column g; c columns 2i, 2i + 1 of row g, then of row g + 8.
__device__ __forceinline__ void multiply_tiles(float c[4], const u32 a[4], const u32 b[2]) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// Who arrives last of `n` blocks: true in all its threads. `counter` is 0 before and after.
__device__ __forceinline__ bool last_block(u32* counter, u32 n) {
    __shared__ bool last;
    __threadfence();  // what this block wrote is there before it is counted
    __syncthreads();
    if (threadIdx.x == 0) last = atomicAdd(counter, 1u) == n - 1;
    __syncthreads();
    if (last && threadIdx.x == 0) *counter = 0;
    __threadfence();
    return last;
}
