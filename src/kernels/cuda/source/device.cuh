// What the decoder needs of a device: names of types, the lanes of a warp, and the product of the
// tensor cores.
//
// All numbers are integers. For the tests, the host's compiler reads the same files after a prelude
// that supplies the built-in names; `S3A_EMULATED` is then set.

typedef signed char i8;
typedef unsigned char u8;
typedef short i16;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

#define S3A_ALL 0xffffffffu

#ifndef S3A_EMULATED
#define S3A_DEVICE __device__ __forceinline__

extern __shared__ uint4 s3a_shared[];

S3A_DEVICE u8 *shared_memory() { return (u8 *)s3a_shared; }

// acc += A B for 16 rows of A, 32 columns, and 8 columns of B. Fragments lie in the threads as the
// instruction m16n8k32 needs them; older devices have m8n8k16, four of which do the same.
#if __CUDA_ARCH__ >= 800
#define S3A_MULTIPLY(NAME, TYPE)                                                                                 \
    S3A_DEVICE void NAME(int (&acc)[4], uint4 a, u32 b0, u32 b1) {                                               \
        asm("mma.sync.aligned.m16n8k32.row.col.s32.s8." TYPE ".s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "      \
            "{%0,%1,%2,%3};"                                                                                     \
            : "+r"(acc[0]), "+r"(acc[1]), "+r"(acc[2]), "+r"(acc[3])                                             \
            : "r"(a.x), "r"(a.y), "r"(a.z), "r"(a.w), "r"(b0), "r"(b1));                                         \
    }
#else
#define S3A_EIGHTH(TYPE, TO, FROM, A, B)                                                                         \
    asm("mma.sync.aligned.m8n8k16.row.col.s32.s8." TYPE ".s32 {%0,%1}, {%2}, {%3}, {%0,%1};"                     \
        : "+r"(acc[TO]), "+r"(acc[FROM]) : "r"(A), "r"(B))
#define S3A_MULTIPLY(NAME, TYPE)                                                                                 \
    S3A_DEVICE void NAME(int (&acc)[4], uint4 a, u32 b0, u32 b1) {                                               \
        S3A_EIGHTH(TYPE, 0, 1, a.x, b0);                                                                         \
        S3A_EIGHTH(TYPE, 2, 3, a.y, b0);                                                                         \
        S3A_EIGHTH(TYPE, 0, 1, a.z, b1);                                                                         \
        S3A_EIGHTH(TYPE, 2, 3, a.w, b1);                                                                         \
    }
#endif
// Products of signed bytes; and products in which the bytes of B are unsigned.
S3A_MULTIPLY(multiply, "s8")
S3A_MULTIPLY(multiply_unsigned, "u8")
#endif

// The thread's number in its warp, and the warp's number in its block, which is the number of the
// lane that the warp works for.
S3A_DEVICE u32 thread_of_warp() { return threadIdx.x & 31; }
S3A_DEVICE u32 warp_of_block() { return threadIdx.x >> 5; }

S3A_DEVICE int warp_max(int x) {
#pragma unroll
    for (int step = 16; step > 0; step >>= 1) {
        int other = __shfl_xor_sync(S3A_ALL, x, step);
        x = other > x ? other : x;
    }
    return x;
}

S3A_DEVICE int warp_sum(int x) {
#pragma unroll
    for (int step = 16; step > 0; step >>= 1) {
        x += __shfl_xor_sync(S3A_ALL, x, step);
    }
    return x;
}

// For each thread, the sum of the values of the threads up to and with it.
template <typename T>
S3A_DEVICE T warp_sums(T x) {
#pragma unroll
    for (u32 step = 1; step < 32; step <<= 1) {
        T before = __shfl_up_sync(S3A_ALL, x, step);
        if (thread_of_warp() >= step) x += before;
    }
    return x;
}
