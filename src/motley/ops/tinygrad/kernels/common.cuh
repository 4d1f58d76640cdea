// Sums over a warp and a block; activations; weights as they are stored, 32 values at a time.

__device__ __forceinline__ float warp_sum(float x) {
    for (int by = 16; by; by >>= 1) x += shuffle_xor(x, by);
    return x;
}

__device__ __forceinline__ float warp_max(float x) {
    for (int by = 16; by; by >>= 1) x = fmaxf(x, shuffle_xor(x, by));
    return x;
}

// Of all threads of the block, to all of them. `shared`: 32 floats that nobody uses meanwhile.
__device__ __forceinline__ float block_sum(float x, float* shared) {
    x = warp_sum(x);
    __syncthreads();
    if (LANE == 0) shared[WARP] = x;
    __syncthreads();
    float total = 0;
    for (int w = 0; w < (int)(blockDim.x >> 5); w++) total += shared[w];
    return total;
}

__device__ __forceinline__ float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

enum { SILU = 0, GELU = 1, CLAMPED = 2 };  // ops.protocol.Activation

__device__ __forceinline__ float activated(int activation, float g, float u) {
    if (activation == SILU) return g * sigmoid(g) * u;
    if (activation == GELU) return 0.5f * g * (1 + tanhf(0.7978845608028654f * (g + 0.044715f * g * g * g))) * u;
    g = fminf(g, 7.0f), u = fminf(fmaxf(u, -7.0f), 7.0f);
    return g * sigmoid(1.702f * g) * (u + 1);
}

// Element `i` of x [dim] turned by rope; turn: dim / 2 cosines, then as many sines.
__device__ __forceinline__ float turned(const float* x, int i, int dim, bool interleaved, const float* turn) {
    int pair = interleaved ? i >> 1 : i % (dim / 2);
    bool second = interleaved ? i & 1 : i >= dim / 2;
    float a = x[interleaved ? 2 * pair : pair], b = x[interleaved ? 2 * pair + 1 : pair + dim / 2];
    float c = turn[pair], s = turn[dim / 2 + pair];
    return second ? a * s + b * c : a * c - b * s;
}

// Where element `e` is, if each `group` of them is at the front of `width`: heads whose queries have something behind them.
__device__ __forceinline__ long spread(int e, int first, int group, int width) {
    return first + (long)(e / group) * width + e % group;
}

// What a cache keeps.
template <bool HALVES>
struct Cached {
    typedef u16 Kept;
    static __device__ __forceinline__ u16 kept(float x) { return float_to_half(x); }
    static __device__ __forceinline__ float read(u16 x) { return half_to_float(x); }
};
template <>
struct Cached<false> {
    typedef float Kept;
    static __device__ __forceinline__ float kept(float x) { return x; }
    static __device__ __forceinline__ float read(float x) { return x; }
};

// A matrix's planes, in the order of planes.LAYOUTS; those that a format lacks are not looked at.
struct Planes {
    const u8 *a, *b, *c, *d;
};

enum { F32 = 0, F16 = 1, BF16 = 30, Q4_0 = 2, Q8_0 = 8, Q4_K = 12, Q6_K = 14, MXFP4 = 39 };  // as in GGUF

struct alignas(16) Words {
    u32 w[4];
};

__device__ __forceinline__ u32 byte_of(u32 word, int i) { return word >> (8 * i) & 255; }

__device__ __forceinline__ float half_at(const u8* plane, long i) { return half_to_float(((const u16*)plane)[i]); }

// 16 bytes at `q`, low nibbles to v[0..15], high ones to v[16..31], less `zero`, times d.
__device__ __forceinline__ void nibbles(const u8* q, float zero, float d, float v[32]) {
    Words words = *(const Words*)q;
    for (int i = 0; i < 16; i++) {
        u32 byte = byte_of(words.w[i >> 2], i & 3);
        v[i] = ((float)(byte & 15) - zero) * d;
        v[i + 16] = ((float)(byte >> 4) - zero) * d;
    }
}

template <int QUANT>
__device__ __forceinline__ float float_at(const u8* plane, long i) {
    if (QUANT == F32) return ((const float*)plane)[i];
    return QUANT == F16 ? half_at(plane, i) : bits_to_float((u32)((const u16*)plane)[i] << 16);
}

// Unit `u` of a row of `cols`: values [32 u, 32 u + 32), with zeros behind the row's end, which only floats have in the middle
// of a unit. Neighbouring lanes read neighbouring bytes. The float32 operations are those of formats.decode, in its order.
template <int QUANT>
__device__ __forceinline__ void unit_of(const Planes& p, long row, int u, int cols, float v[32]) {
    long at = row * (cols / 32) + u;
    if (QUANT == F32 || QUANT == F16 || QUANT == BF16) {
        for (int i = 0; i < 32; i++) v[i] = u * 32 + i < cols ? float_at<QUANT>(p.a, row * cols + u * 32 + i) : 0.0f;
    } else if (QUANT == Q8_0) {
        float d = half_at(p.b, at);
        for (int k = 0; k < 2; k++) {
            Words words = *(const Words*)(p.a + at * 32 + 16 * k);
            for (int i = 0; i < 16; i++) v[16 * k + i] = (float)(signed char)byte_of(words.w[i >> 2], i & 3) * d;
        }
    } else if (QUANT == Q4_0) {
        nibbles(p.a + at * 16, 8, half_at(p.b, at), v);
    } else if (QUANT == MXFP4) {
        u32 e = p.b[at];  // half of 2^(e - 127), the two smallest subnormal
        float d = bits_to_float(e == 255 ? 0x7fc00000u : e < 2 ? (e + 1) * 0x00200000u : (e - 1) << 23);
        Words words = *(const Words*)(p.a + at * 16);
        for (int i = 0; i < 32; i++) {
            u32 byte = byte_of(words.w[(i & 15) >> 2], i & 3);
            u32 q = i < 16 ? byte & 15 : byte >> 4, m = q & 7;
            float doubled = (float)(m < 4 ? m : (2 + (m & 1)) << ((m >> 1) - 1));  // 0 1 2 3 4 6 8 12
            v[i] = (q < 8 ? doubled : -doubled) * d;
        }
    } else if (QUANT == Q4_K) {  // planes qs 128, scales 12, d, dmin of 8 units
        long block = at >> 3;
        int s = (int)(at & 7);
        const u8* packed = p.b + block * 12;
        u32 scale = s < 4 ? packed[s] & 63 : (packed[s + 4] & 15) | packed[s - 4] >> 6 << 4;
        u32 min = s < 4 ? packed[s + 4] & 63 : packed[s + 4] >> 4 | packed[s] >> 6 << 4;
        float d = half_at(p.c, block) * (float)scale, m = half_at(p.d, block) * (float)min;
        const u8* q = p.a + block * 128 + (s >> 1) * 32;  // two units share 32 bytes: low nibbles, high nibbles
        for (int k = 0; k < 2; k++) {
            Words words = *(const Words*)(q + 16 * k);
            for (int i = 0; i < 16; i++) {
                u32 byte = byte_of(words.w[i >> 2], i & 3);
                v[16 * k + i] = d * (float)(s & 1 ? byte >> 4 : byte & 15) - m;
            }
        }
    } else if (QUANT == Q6_K) {  // planes ql 128, qh 64, scales 16, d of 8 units
        long block = at >> 3;
        int half = (int)(at & 7) >> 2, group = (int)(at & 3);
        const u8* low = p.a + block * 128 + half * 64 + (group & 1) * 32;
        const u8* high = p.b + block * 64 + half * 32;
        const signed char* scales = (const signed char*)p.c + block * 16 + half * 8 + group * 2;
        float d = half_at(p.d, block);
        for (int k = 0; k < 2; k++) {  // 16 values have a scale
            Words l = *(const Words*)(low + 16 * k), h = *(const Words*)(high + 16 * k);
            float scaled = d * (float)scales[k];
            for (int i = 0; i < 16; i++) {
                u32 byte = byte_of(l.w[i >> 2], i & 3);
                u32 four = group & 2 ? byte >> 4 : byte & 15, two = byte_of(h.w[i >> 2], i & 3) >> (2 * group) & 3;
                v[16 * k + i] = scaled * ((float)(four | two << 4) - 32.0f);
            }
        }
    }
}
