// The loop over tokens for a tile of chunks: a block has a tile, and a warp has a chunk of it.
// Blocks never wait for each other or for the host. A launch ends after some number of tokens, so
// that the host can put the remaining chunks into fuller tiles, and so that a device that also
// draws a screen can do so.

S3A_DEVICE void layer_of(const Block &block, const Layer &layer, u32 number) {
    const u32 warp = warp_of_block();
    const bool running = block.fixed->lanes[warp].running;
    int *h = block.h + warp * HS, *row = block.y + warp * YS;

    if (running) quantize<WIDTH, true>(block, h);
    __syncthreads();
    linear<QKV, WIDTH, STORE>(block, layer.qkv);
    __syncthreads();
    if (running) {
        self_attention(block, layer, number);
        quantize<INNER, false>(block, row + O_AT);
    }
    __syncthreads();
    linear<WIDTH, INNER, ADD>(block, layer.out);
    __syncthreads();

#if S3A_CROSS
    const bool attends = running && block.fixed->lanes[warp].job.latent_len > 0;
    if (running) quantize<WIDTH, true>(block, h);
    __syncthreads();
    linear<INNER, WIDTH, STORE>(block, layer.cross_q);
    __syncthreads();
    if (attends) {
        cross_attention(block, layer, number);
        quantize<INNER, false>(block, row + O_AT);
    }
    __syncthreads();
    linear<WIDTH, INNER, ADD_CROSS>(block, layer.cross_out);
    __syncthreads();
#endif

    if (running) quantize<WIDTH, true>(block, h);
    __syncthreads();
    // Gains lie behind the input's vector.
    linear<UP_ROWS, WIDTH, S3A_GATED ? STORE : S3A_SQUARED ? RELU2 : RELU>(block, layer.up, WIDTH + number * FF);
    __syncthreads();
    if (running) {
        if (S3A_GATED) {
            const u16 *share = at<u16>(block, block.head->gelu);
            for (u32 j = thread_of_warp(); j < FF; j += 32) {
                row[j] = gated_gelu(row[j], row[FF + j], (int)layer.gelu, share);
            }
            __syncwarp();
        }
        quantize<FF, false>(block, row);
    }
    __syncthreads();
    linear<WIDTH, FF, ADD>(block, layer.down);
    __syncthreads();
}

// Elements of history that take about as long to lay in as a token takes to decode.
#define LAID_PER_STEP 16

extern "C" __global__ void __launch_bounds__(32 * TILE, S3A_BLOCKS)
s3a_decode(const u8 *model, Job *jobs, const Tile *tiles, u8 *workspace, u64 steps) {
    const u32 warp = warp_of_block(), thread = thread_of_warp();
    const Tile tile = tiles[blockIdx.x];
    u8 *shared = shared_memory();
    u8 *own = workspace + (u64)blockIdx.x * S3A_WORKSPACE;
    Block block;
    block.model = model;
    block.head = (const Model *)model;
    block.set = at<Set>(block, block.head->sets) + tile.set;
    block.fixed = (Fixed *)shared;
    block.q = (i8 *)(shared + S3A_FIXED_BYTES);
    block.h = (int *)(S3A_H_SHARED ? shared + S3A_FIXED_BYTES + TILE * QS : own + S3A_H_AT);
    block.y = (int *)(S3A_Y_SHARED ? shared + S3A_Y_AT : own + S3A_Y_AT);
    Lane &lane = block.fixed->lanes[warp];

    // A lane without a chunk computes zeros.
    for (u32 j = thread; j < QS; j += 32) block.q[warp * QS + j] = 0;
    for (u32 j = thread; j < HS; j += 32) block.h[warp * HS + j] = 0;
    if (thread == 0) {
        block.fixed->m[warp] = block.fixed->e[warp] = 0;
        lane.running = 0;
        lane.job.latent_len = lane.job.steered = 0;
        if (warp < tile.count) lane.job = jobs[tile.first + warp];
    }
    __syncwarp();
    if (warp < tile.count && lane.job.status == RUNNING) {
        lay_history(lane, (u32)steps * LAID_PER_STEP);
        if (thread == 0) lane.running = lane.job.length >= lane.job.history_len;
        __syncwarp();
    }

    for (; steps > 0 && __syncthreads_or(lane.running); steps--) {
        if (lane.running) input(block);
        for (u32 number = 0; number < LAYERS; number++) layer_of(block, block.set->layers[number], number);
        if (lane.running) quantize<WIDTH, true>(block, block.h + warp * HS);
        __syncthreads();
        linear<VOCAB, WIDTH, STORE>(block, block.set->head);
        if (S3A_COPY) linear<SLOTS ? SLOTS : 1, WIDTH, GATES>(block, block.set->copy);
        __syncthreads();
        if (lane.running) code_token(block, lane, block.y + warp * YS);
    }
    if (thread == 0 && warp < tile.count) {
        jobs[tile.first + warp] = lane.job;
    }
}
