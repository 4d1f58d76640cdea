// The CUDA kernels' primitives on the CPU, one block after the other, its threads as fibers that take turns wherever threads
// wait for each other. Finds wrong indices, missing barriers (a shuffle or barrier that not all reach never returns) and
// wrong fragments; finds no races and no speed.
#include <csetjmp>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <sys/mman.h>
#include <ucontext.h>
#include <utility>
#include <vector>

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(n)
#define __shared__ static
#define LANE (threadIdx.x & 31)
#define WARP (threadIdx.x >> 5)
#define INFINITE INFINITY

struct Dim {
    unsigned x, y, z;
};
static Dim threadIdx, blockIdx, blockDim, gridDim;

struct Meeting {  // of threads that wait for each other
    unsigned arrived = 0, round = 0;
};
static Meeting block_meeting, warp_meetings[32];
static float warp_values[32][32];
static u32 warp_words[32][32][6];

struct Fiber {
    jmp_buf at;
    ucontext_t start;
    void* stack;
    bool begun, done;
};
static std::vector<Fiber> fibers;
static jmp_buf scheduler;
static ucontext_t home;
static std::function<void()> body;

static void yield() {
    Fiber& me = fibers[threadIdx.x];
    if (!_setjmp(me.at)) _longjmp(scheduler, 1);
}

static void meet(Meeting& m, unsigned all) {
    unsigned round = m.round;
    if (++m.arrived == all) {
        m.arrived = 0;
        m.round++;
        return;
    }
    while (m.round == round) yield();
}

static void __syncthreads() { meet(block_meeting, blockDim.x); }
static void warp_meet() { meet(warp_meetings[WARP], 32); }

static float half_to_float(u16 h) {
    u32 e = h >> 10 & 31, m = h & 1023;
    float f = e == 31 ? (m ? NAN : INFINITY) : e ? ldexpf(1024 + m, e - 25) : ldexpf(m, -24);
    return h & 0x8000 ? -f : f;
}

static u16 float_to_half(float f) {
    u32 x;
    memcpy(&x, &f, 4);
    u16 sign = x >> 16 & 0x8000;
    if (f != f) return sign | 0x7fff;
    float a = fabsf(f);
    if (a >= 65520.0f) return sign | 0x7c00;
    if (a < 6.103515625e-05f) return sign | (u16)nearbyintf(a * 16777216.0f);
    int e;
    float m = frexpf(a, &e);                  // a = m 2^e, m from 0.5 to 1
    u32 q = (u32)nearbyintf(m * 2048.0f);  // 1024 to 2048
    return sign | (u16)(((u32)(e + 13) << 10) + q);
}

static u32 bf16_of(float f) {
    u32 x;
    memcpy(&x, &f, 4);
    if (f != f) return 0x7fff;
    return (x + 0x7fff + (x >> 16 & 1)) >> 16;
}
static u32 pack_bf16(float low, float high) { return bf16_of(low) | bf16_of(high) << 16; }
static float bits_to_float(u32 bits) {
    float f;
    memcpy(&f, &bits, 4);
    return f;
}

static float shuffle_from(float x, int lane) {
    warp_values[WARP][LANE] = x;
    warp_meet();
    float y = warp_values[WARP][lane & 31];
    warp_meet();
    return y;
}
static float shuffle_xor(float x, int by) { return shuffle_from(x, LANE ^ by); }

static void multiply_tiles(float c[4], const u32 a[4], const u32 b[2]) {
    u32* mine = warp_words[WARP][LANE];
    for (int i = 0; i < 4; i++) mine[i] = a[i];
    for (int i = 0; i < 2; i++) mine[4 + i] = b[i];
    warp_meet();
    auto half = [](u32 word, int which) { return bits_to_float(which ? word & 0xffff0000u : word << 16); };
    auto A = [&](int row, int k) {  // row g or g + 8, column 2i, 2i + 1, 2i + 8, 2i + 9 of lane 4g + i
        u32 word = warp_words[WARP][(row & 7) * 4 + (k & 7) / 2][(row >> 3) + (k >> 3) * 2];
        return half(word, k & 1);
    };
    auto B = [&](int k, int col) { return half(warp_words[WARP][col * 4 + (k & 7) / 2][4 + (k >> 3)], k & 1); };
    for (int i = 0; i < 4; i++) {
        int row = (LANE >> 2) + (i >> 1) * 8, col = (LANE & 3) * 2 + (i & 1);
        for (int k = 0; k < 16; k++) c[i] += A(row, k) * B(k, col);
    }
    warp_meet();
}

static bool last_block(u32* counter, u32 n) {
    static bool last;
    __syncthreads();
    if (threadIdx.x == 0) {
        last = ++*counter == n;
        if (last) *counter = 0;
    }
    __syncthreads();
    return last;
}

static void begin_fiber() {
    body();
    fibers[threadIdx.x].done = true;
    _longjmp(scheduler, 1);
}

static void run_block() {
    block_meeting = Meeting();
    for (auto& m : warp_meetings) m = Meeting();
    const size_t stack = 1 << 18;
    fibers.resize(blockDim.x);
    for (auto& f : fibers) {
        if (!f.stack) f.stack = mmap(nullptr, stack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        f.begun = f.done = false;
    }
    for (unsigned going = blockDim.x, turns = 0; going; turns++) {
        if (turns > 50000000) fprintf(stderr, "threads wait for each other for ever\n"), abort();
        for (unsigned i = 0; i < blockDim.x; i++) {
            Fiber& f = fibers[i];
            if (f.done) continue;
            threadIdx.x = i;
            if (_setjmp(scheduler)) {
                if (fibers[i].done) going--;
                continue;
            }
            if (f.begun) _longjmp(f.at, 1);
            f.begun = true;
            getcontext(&f.start);
            f.start.uc_stack.ss_sp = f.stack;
            f.start.uc_stack.ss_size = stack;
            f.start.uc_link = &home;
            makecontext(&f.start, begin_fiber, 0);
            setcontext(&f.start);
        }
    }
}

template <class... Args, size_t... I>
static void launch(void (*kernel)(Args...), void** args, const unsigned* grid, unsigned threads, std::index_sequence<I...>) {
    gridDim = {grid[0], grid[1], grid[2]};
    blockDim = {threads, 1, 1};
    body = [=] { kernel((Args)args[I]...); };
    for (blockIdx.z = 0; blockIdx.z < grid[2]; blockIdx.z++)
        for (blockIdx.y = 0; blockIdx.y < grid[1]; blockIdx.y++)
            for (blockIdx.x = 0; blockIdx.x < grid[0]; blockIdx.x++) run_block();
}

template <class... Args>
static void launch_kernel(void (*kernel)(Args...), void** args, const unsigned* grid, unsigned threads) {
    launch(kernel, args, grid, threads, std::index_sequence_for<Args...>());
}
