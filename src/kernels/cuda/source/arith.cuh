// Section 5 of spec/numerics.md and the activations of section 6, one number at a time.

#define H_MAX (1 << 29)

S3A_DEVICE int clamp(int a, int low, int high) { return a < low ? low : a > high ? high : a; }

// Rounds halves upward. The bounds of the callers leave room for the rounding.
S3A_DEVICE int rshift(int a, int n) { return n == 0 ? a : (a + (1 << (n - 1))) >> n; }

S3A_DEVICE int bitlen(u32 a) { return 32 - __clz((int)a); }

S3A_DEVICE u32 exp2neg(int d, int up) {
    int i = d >> 10;
    i = i > 31 ? 31 : i;
    int f = (d & 1023) * 32;
    int u = 22012 - ((5628 * f) >> 15);
    int m = 32768 - ((f * u) >> 15);
    return ((u32)m << up) >> i;
}

// The largest number whose square is at most `a`, which is below 2^30.
S3A_DEVICE u32 isqrt(u32 a) {
    u32 root = 0;
#pragma unroll
    for (int bit = 14; bit >= 0; bit--) {
        u32 next = root | (1u << bit);
        if (next * next <= a) root = next;
    }
    return root;
}

// How a vector is quantized, given its largest magnitude.
struct Scale {
    int m, e, inv;
};

S3A_DEVICE Scale quantize_scale(int amax) {
    Scale scale = {0, 0, 0};
    if (amax > 0) {
        scale.e = bitlen((u32)amax) - 15;
        scale.m = scale.e >= 0 ? rshift(amax, scale.e) : amax * (1 << -scale.e);
        scale.inv = (127 << 23) / scale.m;
    }
    return scale;
}

S3A_DEVICE int quantized(int x, Scale scale) {
    int scaled = scale.e >= 0 ? rshift(x, scale.e) : x * (1 << -scale.e);
    return rshift(scaled * scale.inv, 23);
}

// `m` and `e` of `normalize` for a sum of squares of `n` elements.
S3A_DEVICE void normalize_scale(u32 n, u32 sum, int &m, int &e) {
    if (sum == 0) {
        m = e = 0;
        return;
    }
    u32 v = (u32)(((u64)n << 32) / sum);
    int low = 29 - bitlen(v);
    int k = low > 0 ? (low + 1) / 2 : 0;
    m = (int)isqrt(v << (2 * k));
    e = -k;
}

// Requantizes the sum of a product: `pre`, the row's scale times `m`, and `s` of `linear`.
S3A_DEVICE int requantized(int acc, int pre, u32 scale, u32 m, int s) {
    int c = (int)((scale * m) >> 15);
    return rshift(rshift(acc, pre) * c, s);
}

S3A_DEVICE int squared_relu(int u) {
    u = clamp(u, 0, 32767);
    return u * u;
}

S3A_DEVICE int steered_relu(int u, int gain) {
    int r = rshift(clamp(u, 0, 32767) * gain, 12);
    r = r > 32767 ? 32767 : r;
    return r * r;
}

// `gelu(u) * g`; `share` is the table G, `unit` the layer's shift.
S3A_DEVICE int gated_gelu(int u, int g, int unit, const u16 *share) {
    u = clamp(u, -32767, 32767);
    int n = unit > 6 ? unit - 6 : 0;
    int w = (u < 0 ? -u : u) << (6 + n - unit);
    int i = w >> n;
    int s = 32768;
    if (i < 256) {
        int low = share[i], high = share[i + 1];
        s = low + rshift((high - low) * (w & ((1 << n) - 1)), n);
    }
    if (u < 0) s = 32768 - s;
    return rshift(u * s, 15) * clamp(g, -32767, 32767);
}
