// What a warp does to the row of its lane, and the products of all rows of a tile.

// `quantize` of `x`, with `normalize` also that; rows of bytes end in zeros up to a multiple of 32.
template <int LEN, bool NORMALISE>
S3A_DEVICE void quantize(const Block &block, const int *x) {
    const u32 lane = warp_of_block(), thread = thread_of_warp();
    int amax = 0;
    for (int j = thread; j < LEN; j += 32) {
        int a = x[j] < 0 ? -x[j] : x[j];
        amax = a > amax ? a : amax;
    }
    Scale scale = quantize_scale(warp_max(amax));
    i8 *q = block.q + lane * QS;
    int sum = 0;
    for (int j = thread; j < (LEN + 31) / 32 * 32; j += 32) {
        int value = j < LEN ? quantized(x[j], scale) : 0;
        q[j] = (i8)value;
        sum += value * value;
    }
    if (NORMALISE) normalize_scale(LEN, (u32)warp_sum(sum), scale.m, scale.e);
    if (thread == 0) {
        block.fixed->m[lane] = scale.m;
        block.fixed->e[lane] = scale.e;
    }
}

// What becomes of a product's results.
enum Then { STORE, ADD, ADD_CROSS, RELU, RELU2, GATES };

template <int THEN>
S3A_DEVICE void take(const Block &block, u32 row, u32 lane, int y, u32 gain_at) {
    if (THEN == STORE) block.y[lane * YS + row] = y;
    if (THEN == RELU) block.y[lane * YS + row] = clamp(y, 0, 1 << 30);
    if (THEN == RELU2) {
        const Job &job = block.fixed->lanes[lane].job;
        int f = 0;
        if (S3A_STEER && job.steered) {
            f = steered_relu(y, ((const int *)job.steer)[gain_at + row]);
        } else {
            f = squared_relu(y);
        }
        block.y[lane * YS + row] = f;
    }
    if (THEN == GATES) block.fixed->lanes[lane].gates[row] = y;
    // A chunk without c does not attend to it.
    if (THEN == ADD || (THEN == ADD_CROSS && block.fixed->lanes[lane].job.latent_len > 0)) {
        int *h = block.h + lane * HS + row;
        *h = clamp(*h + y, -H_MAX, H_MAX);
    }
}

// `linear` of all rows of the tile. Weights lie as the threads of a warp take them: for 16 rows and
// 32 columns, 16 bytes of each thread. A warp takes 16 rows, and all lanes or some.
template <int ROWS, int COLS, int THEN>
S3A_DEVICE void linear(const Block &block, const Linear &product, u32 gain_at = 0) {
    constexpr int STRIPS = (ROWS + 15) / 16, STEPS = (COLS + 31) / 32, EIGHTS = TILE / 8;
    // Parts of the tile, so that no warp is idle if there are few strips.
    constexpr int PARTS = STRIPS >= TILE ? 1 : STRIPS * 2 >= TILE || EIGHTS < 2 ? (EIGHTS < 2 ? 1 : 2)
                                                                               : (EIGHTS < 4 ? 2 : 4);
    constexpr int PART = EIGHTS / PARTS;
    const u32 thread = thread_of_warp();
    const int pre = (int)product.pre, shift = (int)product.shift;
    const u16 *scales = at<u16>(block, product.scales);
    for (int unit = warp_of_block(); unit < STRIPS * PARTS; unit += TILE) {
        const int strip = unit / PARTS, part = unit % PARTS;
        int acc[PART][4];
#pragma unroll
        for (int n = 0; n < PART; n++) {
            acc[n][0] = acc[n][1] = acc[n][2] = acc[n][3] = 0;
        }
        const uint4 *weights = at<uint4>(block, product.weights) + strip * STEPS * 32 + thread;
        const i8 *q = block.q + (part * PART * 8 + thread / 4) * QS + thread % 4 * 4;
#pragma unroll 4
        for (int step = 0; step < STEPS; step++) {
            const uint4 a = __ldg(weights + step * 32);
#pragma unroll
            for (int n = 0; n < PART; n++) {
                const i8 *b = q + n * 8 * QS + step * 32;
                multiply(acc[n], a, *(const u32 *)b, *(const u32 *)(b + 16));
            }
        }
        const u32 row = strip * 16 + thread / 4;
        const u32 low = row < ROWS ? __ldg(scales + row) : 0;
        const u32 high = row + 8 < ROWS ? __ldg(scales + row + 8) : 0;
#pragma unroll
        for (int n = 0; n < PART; n++) {
#pragma unroll
            for (int i = 0; i < 2; i++) {
                const u32 lane = (part * PART + n) * 8 + thread % 4 * 2 + i;
                const int m = block.fixed->m[lane];
                const int s = clamp(shift - block.fixed->e[lane], 1, 31);
                if (row < ROWS) {
                    take<THEN>(block, row, lane, requantized(acc[n][i], pre, low, m, s), gain_at);
                }
                if (row + 8 < ROWS) {
                    take<THEN>(block, row + 8, lane, requantized(acc[n][i + 2], pre, high, m, s), gain_at);
                }
            }
        }
    }
}
