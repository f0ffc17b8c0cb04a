// The structures that the host writes for the device, and the memory that a block works on.
// `src/model/device/` writes the same structures. Sizes of the model are macros such as
// `S3A_WIDTH`, since the source is compiled for the sizes of a model.

#define WIDTH S3A_WIDTH
#define LAYERS S3A_LAYERS
#define HEADS S3A_HEADS
#define KV_HEADS S3A_KV_HEADS
#define HEAD_SIZE S3A_HEAD_SIZE
#define FF S3A_FF
#define VOCAB S3A_VOCAB
#define ORDERS S3A_ORDERS
#define SECONDS S3A_SECONDS
#define NGRAMS S3A_NGRAMS
#define TILE S3A_TILE

#define INNER (HEADS * HEAD_SIZE)
#define KV_INNER (KV_HEADS * HEAD_SIZE)
#define QKV (INNER + 2 * KV_INNER)
#define UP_ROWS (S3A_GATED ? 2 * FF : FF)
#define SLOTS (ORDERS + SECONDS)
#define CLASSES 17
#define MAX_SLOTS 8
#define MAX_ROWS 32
#define EMPTY 0xffffffffu
#define KV_MAX 2047
// Most tokens of a chunk under a model without window.
#define MAX_TOKENS (S3A_WINDOW ? 0xffffffffu : 4096u)

// Places in the model are offsets in bytes from its start.
struct Linear {
    u32 weights, scales, pre, shift;
};

struct Table {
    u32 rows, scales;
};

struct Layer {
    Linear qkv, out, up, down, cross_q, cross_out;
    u32 bias, score_shift, cross_shift, gelu;
};

struct Set {
    Linear head, copy;
    u32 copy_bias, adapt, padding[2];
    Layer layers[LAYERS];
};

struct Model {
    u32 embed_shift, lengths, sets, gelu;
    Table token, matches[MAX_SLOTS], classes[MAX_SLOTS], ngrams[16];
};

// One chunk; places are addresses. The host writes all of it, and each launch advances it by some
// tokens.
struct Job {
    u64 payload, history, elements, tables, followers, keys, cross, steer;
    // Tokens: read if they are known, written otherwise. Intervals are written if tokens are known.
    u64 tokens, shares;
    u64 code, range;
    // The complement of what the bias has learned, so that memory of ones is a bias of zero.
    u64 learned;
    u32 payload_len, history_len, raw_len, bits;
    // Positions of the ring of keys; symbols of c that the decoder attends to; whether c steers.
    u32 ring, latent_len, steered;
    // Tokens that are known, or `UNKNOWN`.
    u32 known;
    // How far the chunk is: elements of the history array, bytes decoded, bytes read from the
    // payload, tokens, and its status.
    u32 length, bytes, taken, position, status, padding;
};

#define UNKNOWN 0xffffffffu
// The status of a chunk.
#define RUNNING 0u
#define DONE 1u
#define DAMAGED 2u

// The chunks of a block, which share a set of weights.
struct Tile {
    u32 first, count, set;
};

// What a look-up found in the table of one order.
struct Found {
    u32 index;
    // At least 0 if the context was verified.
    int hits;
    u16 follower, second;
};

// One chunk of the tile, for which one warp works.
struct Lane {
    Job job;
    // Whether this launch works on it.
    u32 running;
    Found found[MAX_SLOTS];
    u16 candidate[MAX_SLOTS];
    u8 cls[MAX_SLOTS];
    // Rows of the input's tables.
    u32 rows[MAX_ROWS];
    int row_scales[MAX_ROWS];
    int gates[16];
};

struct Fixed {
    // Scales of the quantized vectors.
    int m[TILE], e[TILE];
    Lane lanes[TILE];
};
static_assert(sizeof(Job) == 160, "the host writes jobs of 160 bytes");
static_assert(sizeof(Fixed) <= S3A_FIXED_BYTES, "the host leaves less room than lanes need");

// Strides of a lane's rows: quantized bytes, the residual stream, and results of products, after
// which attention has its output and its scores.
#define QS S3A_Q_STRIDE
#define HS S3A_H_STRIDE
#define YS S3A_Y_STRIDE
#define O_AT ((QKV + 3) / 4 * 4)
#define SCORES_AT (O_AT + INNER)
// Heads of a shared key that are computed together, and the most positions that attention reaches.
#define GROUP S3A_GROUP
#define REACH S3A_REACH

// Everything that a block works on.
struct Block {
    const u8 *model;
    const Model *head;
    const Set *set;
    Fixed *fixed;
    i8 *q;
    int *h, *y;
};

template <typename T>
S3A_DEVICE const T *at(const Block &block, u32 place) {
    return (const T *)(block.model + place);
}
