// What this machine can do at most: memory read bandwidth and arithmetic on registers, all threads together.
// cc -O3 -march=native -pthread limits.c -o limits && ./limits [threads]      prints one JSON object, takes about a second
//
// Each figure is the best of REPEATS: a limit is what the machine can do, not what it does while others use it too.
// A figure that the instruction set has no instruction for is 0.
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#if defined(__x86_64__)
#include <immintrin.h>
#define HIDE(v) __asm__ volatile("" : "+v"(v))  // the compiler must take v for changed: nothing is folded or left out
#elif defined(__aarch64__)
#include <arm_neon.h>
#define HIDE(v) __asm__ volatile("" : "+w"(v))
#endif

#if defined(__AVX512F__)
#define WIDTH 64
#elif defined(__AVX2__)
#define WIDTH 32
#else
#define WIDTH 16
#endif
#define CHAINS 12  // independent sums: enough to hide the latency of an addition, few enough for the registers
#define STEPS 2000000L
#define REPEATS 3
#define MAX_THREADS 256
#define BUFFER (768L << 20)

typedef float floats __attribute__((vector_size(WIDTH)));
typedef uint64_t words __attribute__((vector_size(WIDTH)));
#define EACH_CHAIN _Pragma("GCC unroll 12") for (int c = 0; c < CHAINS; c++)

// Four streams: a core has more reads under way than with one.
static void read_all(const char *from, size_t bytes) {
  const words *p = (const words *)from;
  size_t stream = bytes / WIDTH / 4;
  words sums[4] = {0};
  for (size_t i = 0; i < stream; i++) {
    _Pragma("GCC unroll 4") for (int c = 0; c < 4; c++) sums[c] |= p[stream * c + i];
  }
  for (int c = 0; c < 4; c++) HIDE(sums[c]);
}

static void float_steps(void) {
  floats sums[CHAINS] = {0}, a = {0}, b = {0};
  HIDE(a);
  HIDE(b);
  for (long i = 0; i < STEPS; i++) {
    EACH_CHAIN { sums[c] += a * b; HIDE(a); HIDE(sums[c]); }
  }
}

#if defined(__AVX512BF16__)
#define BFLOAT16_OPS 64
static void bfloat16_steps(void) {
  __m512 sums[CHAINS] = {0};
  __m512bh a = {0}, b = {0};
  HIDE(a);
  HIDE(b);
  for (long i = 0; i < STEPS; i++) {
    EACH_CHAIN { sums[c] = _mm512_dpbf16_ps(sums[c], a, b); HIDE(sums[c]); }
  }
}
#else
#define BFLOAT16_OPS 0
static void bfloat16_steps(void) {}
#endif

#if defined(__AVX512VNNI__)
#define INT8_OPS 128
typedef __m512i ints;
#define INT8_STEP(sum) _mm512_dpbusd_epi32(sum, a, b)
#elif defined(__AVXVNNI__)
#define INT8_OPS 64
typedef __m256i ints;
#define INT8_STEP(sum) _mm256_dpbusd_avx_epi32(sum, a, b)
#elif defined(__ARM_FEATURE_DOTPROD)
#define INT8_OPS 32
typedef int32x4_t ints;
#define INT8_STEP(sum) vdotq_s32(sum, vreinterpretq_s8_s32(a), vreinterpretq_s8_s32(b))
#else
#define INT8_OPS 0
#endif

#if INT8_OPS
static void int8_steps(void) {
  ints sums[CHAINS] = {0}, a = {0}, b = {0};
  HIDE(a);
  HIDE(b);
  for (long i = 0; i < STEPS; i++) {
    EACH_CHAIN { sums[c] = INT8_STEP(sums[c]); HIDE(sums[c]); }
  }
}
#else
static void int8_steps(void) {}
#endif

enum kind { READ, FLOAT32, BFLOAT16, INT8, KINDS };
static const char *const NAMES[KINDS] = {"read_bytes", "float32_ops", "bfloat16_ops", "int8_ops"};
static const double OPS[KINDS] = {0, 2.0 * WIDTH / 4, BFLOAT16_OPS, INT8_OPS};

struct job {
  enum kind kind;
  int cpu;
  const char *from;
  size_t bytes;
  pthread_barrier_t *together;
  double begin, end;
};

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec + 1e-9 * t.tv_nsec;
}

static void *work(void *argument) {
  struct job *job = argument;
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(job->cpu, &set);
  pthread_setaffinity_np(pthread_self(), sizeof set, &set);
  pthread_barrier_wait(job->together);
  job->begin = now();
  switch (job->kind) {
    case READ: read_all(job->from, job->bytes); break;
    case FLOAT32: float_steps(); break;
    case BFLOAT16: bfloat16_steps(); break;
    case INT8: int8_steps(); break;
    default: break;
  }
  job->end = now();
  return NULL;
}

// Units (bytes or operations) a second, from the first thread's begin to the last one's end.
static double rate(enum kind kind, const int *cpus, int threads, const char *buffer) {
  pthread_t ids[MAX_THREADS];
  struct job jobs[MAX_THREADS];
  pthread_barrier_t together;
  size_t part = BUFFER / threads / 4096 * 4096;
  pthread_barrier_init(&together, NULL, threads);
  for (int i = 0; i < threads; i++) {
    jobs[i] = (struct job){kind, cpus[i], buffer + part * i, part, &together, 0, 0};
    if (pthread_create(&ids[i], NULL, work, &jobs[i])) exit(1);
  }
  double begin = 1e300, end = 0;
  for (int i = 0; i < threads; i++) {
    pthread_join(ids[i], NULL);
    if (jobs[i].begin < begin) begin = jobs[i].begin;
    if (jobs[i].end > end) end = jobs[i].end;
  }
  pthread_barrier_destroy(&together);
  double units = kind == READ ? (double)part * threads : OPS[kind] * CHAINS * STEPS * threads;
  return units / (end - begin);
}

int main(int count, char **arguments) {
  cpu_set_t set;
  int cpus[MAX_THREADS], available = 0;
  if (sched_getaffinity(0, sizeof set, &set)) return 1;
  for (int i = 0; i < CPU_SETSIZE && available < MAX_THREADS; i++)
    if (CPU_ISSET(i, &set)) cpus[available++] = i;
  int threads = count > 1 ? atoi(arguments[1]) : available;
  if (threads < 1 || threads > available) {
    fprintf(stderr, "threads must be 1 to %d\n", available);
    return 2;
  }
  char *buffer = mmap(NULL, BUFFER, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (buffer == MAP_FAILED) return 1;
  madvise(buffer, BUFFER, MADV_HUGEPAGE);
  for (size_t i = 0; i < BUFFER; i += 64) buffer[i] = 1;  // untouched pages are all one page of zeros
  for (int kind = 0; kind < KINDS; kind++) {
    double best = 0;
    for (int i = 0; i < REPEATS && (kind == READ || OPS[kind] > 0); i++) {
      double one = rate(kind, cpus, threads, buffer);
      if (one > best) best = one;
    }
    printf("%s\"%s\": %.4g", kind ? ", " : "{", NAMES[kind], best);
  }
  printf("}\n");
  return 0;
}
