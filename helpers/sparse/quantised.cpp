// Convolutions and matrix products of 8-bit numbers that touch the non-zero blocks of weights only.
//
// A block is four weights: four neighbouring input channels at one tap of one filter. Activations are bytes from 0 to 127, four
// channels of one position and one image side by side (an *element* of 32 bits); weights are signed bytes. A processor with VNNI
// multiplies four such pairs and adds them to a 32-bit sum in one instruction; without it two products are added in 16 bits
// (`vpmaddubsw`), which activations of 7 bits never leave, and two such sums in 32. Either way sums are exact, and so are bit
// for bit what a plain loop over 32-bit integers gives. Then sum * scale + bias, each operation rounded to float32, is rounded
// to the nearest whole number, ties to even; below 0 and above 127 it saturates, which is ReLU as well.
//
// Everything else is as in convolution.cpp: a task is a tile of outputs for a chunk of filters, its inputs are packed by blocks
// of channels that fit the L1 cache, and each filter runs over its list of (offset, block) pairs with the tile's sums in
// registers. Two layouts of the activations:
//   images     [N / V][C / 4][H][W][V]  a vector holds one position of V images
//   positions  [N][C / 4][H][W]         a vector holds neighbouring positions of one image
// Channels and filters are filled up to whole elements: such weights are zero, and such outputs are what no weight reads.
//
// -DPLAIN=V builds the kernels with V lanes for any processor, slowly: tests of layouts that the machine's own do not use.

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

// One layer as Python describes it; keep in step with `Layer` in quantised.py.
struct Layer {
  const void* values;       // four int8 a block
  const uint16_t* offsets;  // vectors (images) or elements (positions) from the beginning of the packed block
  const int32_t* starts;    // the pairs of channel block b and filter f are those from starts[b * filters + f] to the next start
  const float* scale;
  const float* bias;
  int64_t filters, blocks, block;  // filters, in whole elements; blocks of input elements; elements a block
  int64_t groups, height, width, kernel, padding, out_height, out_width;  // groups: input elements a position
  int64_t rows, columns;  // of a tile in positions
  int64_t zero;           // the byte that stands for 0, outside the image
  int64_t pool, floats;   // 2x2 max-pool; float32 outputs without rounding (of products alone)
};

namespace {

#define OPAQUE(pointer) asm("" : "+r"(pointer))

#if defined(PLAIN)
constexpr int kLanes = PLAIN;
#elif defined(__AVX512VNNI__)
constexpr int kLanes = 16;
#elif defined(__AVXVNNI__)
constexpr int kLanes = 8;
#elif defined(__AVX2__)
constexpr int kLanes = 8;
#else
constexpr int kLanes = 0;  // no kernels: Python says so
#endif

constexpr int V = kLanes > 0 ? kLanes : 8;
constexpr int kRows = 4, kColumns = V == 16 ? 4 : 2;       // of a tile in images
constexpr int kMostAccumulators = 8;                       // vectors of a tile in positions, image blocks of a product
typedef int32_t Sums __attribute__((vector_size(V * 4), aligned(4), may_alias));
typedef uint32_t Elements __attribute__((vector_size(V * 4), aligned(4), may_alias));
typedef float Floats __attribute__((vector_size(V * 4), aligned(4), may_alias));

// The weights of one block, in every lane.
inline Elements weights(const Layer& layer, int64_t i) { return Elements{} + static_cast<const uint32_t*>(layer.values)[i]; }

// sum + the four products in each lane.
inline Sums dot(Sums sum, Elements w, const uint32_t* x) {
#if defined(PLAIN)
  for (int lane = 0; lane < V; ++lane)
    for (int c = 0; c < 4; ++c)
      sum[lane] += static_cast<int32_t>(x[lane] >> 8 * c & 255) * static_cast<int8_t>(w[lane] >> 8 * c);
  return sum;
#elif defined(__AVX512VNNI__)
  return (Sums)_mm512_dpbusd_epi32((__m512i)sum, _mm512_loadu_si512(x), (__m512i)w);
#elif defined(__AVXVNNI__)
  return (Sums)_mm256_dpbusd_avx_epi32((__m256i)sum, _mm256_loadu_si256((const __m256i*)x), (__m256i)w);
#elif defined(__AVX2__)
  const __m256i pairs = _mm256_maddubs_epi16(_mm256_loadu_si256((const __m256i*)x), (__m256i)w);
  return sum + (Sums)_mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
#else
  return sum;
#endif
}

// A buffer of the calling thread for the packed tile (0) or the sums (1).
void* scratch(int which, int64_t bytes) {
  struct Buffer {
    void* memory = nullptr;
    int64_t size = 0;
    ~Buffer() { std::free(memory); }
  };
  static thread_local Buffer buffers[2];
  Buffer& buffer = buffers[which];
  const int64_t size = (bytes + 4095) / 4096 * 4096;
  if (buffer.size < size) {
    std::free(buffer.memory);
    buffer.size = 0;
    buffer.memory = std::aligned_alloc(4096, size);
    if (buffer.memory == nullptr) throw std::bad_alloc();
    buffer.size = size;
  }
  return buffer.memory;
}

// sums[r][c] += the products of the list with x[offset + r * S + c]; S is the row stride of the packed tile in vectors, U the
// unit of offsets in elements. The first block of channels starts from 0.
template <int R, int C, int S, int U>
inline __attribute__((always_inline)) void accumulate(const uint32_t* x, const Layer& layer, int64_t filter, int64_t block,
                                                      int32_t* sums) {
  constexpr int T = R * C;
  constexpr int ways = T >= 4 ? 1 : 4 / T;  // few sums: independent copies hide the latency of an addition
  const int32_t* start = layer.starts + block * layer.filters + filter;
  const uint16_t* offsets = layer.offsets;
  Sums acc[ways][T];
#pragma GCC unroll 32
  for (int t = 0; t < T; ++t) {
    acc[0][t] = block == 0 ? Sums{} : *reinterpret_cast<const Sums*>(sums + t * V);
#pragma GCC unroll 4
    for (int w = 1; w < ways; ++w) acc[w][t] = Sums{};
  }
  int32_t i = start[0];
  const int32_t end = start[1];
  for (; i + ways <= end; i += ways) {
#pragma GCC unroll 4
    for (int w = 0; w < ways; ++w) {
      const Elements block_weights = weights(layer, i + w);
      const uint32_t* p = x + static_cast<size_t>(offsets[i + w]) * U;
      OPAQUE(p);
#pragma GCC unroll 32
      for (int r = 0; r < R; ++r)
#pragma GCC unroll 32
        for (int c = 0; c < C; ++c) acc[w][r * C + c] = dot(acc[w][r * C + c], block_weights, p + (r * S + c) * V);
    }
  }
  if constexpr (ways > 1)
    for (; i < end; ++i) {
      const Elements block_weights = weights(layer, i);
#pragma GCC unroll 4
      for (int t = 0; t < T; ++t)
        acc[0][t] = dot(acc[0][t], block_weights, x + static_cast<size_t>(offsets[i]) * U + t * V);
    }
#pragma GCC unroll 32
  for (int t = 0; t < T; ++t) {
    Sums sum = acc[0][t];
#pragma GCC unroll 4
    for (int w = 1; w < ways; ++w) sum += acc[w][t];
    *reinterpret_cast<Sums*>(sums + t * V) = sum;
  }
}

// Shares the tasks out evenly. The team is always the whole one, whose threads OpenMP then keeps.
template <typename Body>
void parallel(int64_t tasks, int64_t threads, const Body& body) {
  const int64_t parts = std::min(threads, tasks);
#pragma omp parallel for schedule(static) num_threads(threads) if (parts > 1)
  for (int64_t part = 0; part < parts; ++part) body(tasks * part / parts, tasks * (part + 1) / parts);
}

// How many filters a task takes: at most 128, fewer where there are too few tiles to keep the threads busy; whole elements.
int64_t filters_per_task(int64_t filters, int64_t tiles, int64_t even, int64_t threads) {
  const int64_t wanted = threads == 1 ? 1 : 4 * threads;
  const int64_t chunks = std::max((filters + 127) / 128, (wanted + tiles - 1) / tiles);
  const int64_t size = std::max<int64_t>(8, (filters + chunks - 1) / chunks);
  return (size + even - 1) / even * even;
}

inline Sums larger(Sums a, Sums b) { return a > b ? a : b; }

// Sums of filter f as bytes in 32 bits each: the nearest to sum * scale + bias, ties to even, from 0 to 127.
inline Elements rounded(const Layer& g, Sums sum, int64_t f) {
  Floats y = __builtin_convertvector(sum, Floats) * g.scale[f] + g.bias[f];
  y = y > 0.0f ? y : Floats{};
  y = y < 127.0f ? y : Floats{} + 127.0f;
  return (Elements)(y + 12582912.0f) & 0xff;  // 1.5 * 2^23: what is added to it is rounded to a whole number
}

// One element of each lane, of the sums of four filters that lie `apart` numbers from each other.
template <typename Read>
inline Elements element(const Layer& g, int64_t f, const Read& read) {
  return rounded(g, read(0), f) | rounded(g, read(1), f + 1) << 8 | rounded(g, read(2), f + 2) << 16 | rounded(g, read(3), f + 3) << 24;
}

inline const Sums& at(const int32_t* sums) { return *reinterpret_cast<const Sums*>(sums); }

// ------------------------------------------------------------------------------------------------ images in the vector

template <int E>
void conv_images_tiled(const Layer& g, const uint32_t* x, uint32_t* out, int64_t images, int64_t threads) {
  constexpr int R = kRows, C = kColumns, T = R * C, rows = R + E, columns = C + E;
  const int64_t tiles_y = (g.out_height + R - 1) / R, tiles_x = (g.out_width + C - 1) / C;
  const int64_t tiles = images * tiles_y * tiles_x;
  const int64_t chunk = filters_per_task(g.filters, tiles, 4, threads), chunks = (g.filters + chunk - 1) / chunk;
  const int64_t shrink = g.pool ? 2 : 1, out_width = g.out_width / shrink, plane = g.out_height / shrink * out_width;
  const Elements outside = Elements{} + static_cast<uint32_t>(g.zero * 0x01010101);
  parallel(tiles * chunks, threads, [&](int64_t begin, int64_t end) {
    uint32_t* packed = static_cast<uint32_t*>(scratch(0, g.block * rows * columns * V * 4));
    int32_t* sums = static_cast<int32_t*>(scratch(1, chunk * T * V * 4));
    for (int64_t task = begin; task < end; ++task) {
      const int64_t f0 = task % chunks * chunk, f1 = std::min(f0 + chunk, g.filters);
      const int64_t tile = task / chunks, x0 = tile % tiles_x * C, y0 = tile / tiles_x % tiles_y * R;
      const int64_t image = tile / tiles_x / tiles_y;
      for (int64_t b = 0; b < g.blocks; ++b) {
        uint32_t* to = packed;
        for (int64_t c = b * g.block; c < std::min((b + 1) * g.block, g.groups); ++c)
          for (int64_t y = y0 - g.padding; y < y0 - g.padding + rows; ++y)
            for (int64_t q = x0 - g.padding; q < x0 - g.padding + columns; ++q, to += V) {
              const bool inside = y >= 0 && y < g.height && q >= 0 && q < g.width;
              const uint32_t* from = x + (((image * g.groups + c) * g.height + y) * g.width + q) * V;
              *reinterpret_cast<Elements*>(to) = inside ? *reinterpret_cast<const Elements*>(from) : outside;
            }
        for (int64_t f = f0; f < f1; ++f)
          accumulate<R, C, columns, V>(packed, g, f, b, sums + (f - f0) * T * V);
      }
      const int64_t down = std::min<int64_t>(R, g.out_height - y0), across = std::min<int64_t>(C, g.out_width - x0);
      for (int64_t f = f0; f < f1; f += 4) {
        const int32_t* own = sums + (f - f0) * T * V;
        uint32_t* to = out + (image * (g.filters / 4) + f / 4) * plane * V;
        for (int64_t r = 0; r + shrink <= down; r += shrink)
          for (int64_t q = 0; q + shrink <= across; q += shrink) {
            const Elements made = element(g, f, [&](int64_t k) {
              const int32_t* s = own + k * T * V + (r * C + q) * V;
              return g.pool ? larger(larger(at(s), at(s + V)), larger(at(s + C * V), at(s + (C + 1) * V))) : at(s);
            });
            *reinterpret_cast<Elements*>(to + ((y0 + r) / shrink * out_width + (x0 + q) / shrink) * V) = made;
          }
      }
    }
  });
}

// A matrix product, G blocks of V images at a time. With `pool` each four neighbouring elements of outputs become one.
template <int G>
void product_images_grouped(const Layer& g, const uint32_t* x, void* out, int64_t images, int64_t threads) {
  const int64_t tiles = (images + G - 1) / G, step = g.pool ? 16 : 4, outputs = g.filters / step;
  const int64_t chunk = filters_per_task(g.filters, tiles, step, threads), chunks = (g.filters + chunk - 1) / chunk;
  parallel(tiles * chunks, threads, [&](int64_t begin, int64_t end) {
    uint32_t* packed = static_cast<uint32_t*>(scratch(0, g.block * G * V * 4));
    int32_t* sums = static_cast<int32_t*>(scratch(1, chunk * G * V * 4));
    for (int64_t task = begin; task < end; ++task) {
      const int64_t f0 = task % chunks * chunk, f1 = std::min(f0 + chunk, g.filters), i0 = task / chunks * G;
      const int64_t present = std::min<int64_t>(G, images - i0);
      for (int64_t b = 0; b < g.blocks; ++b) {
        uint32_t* to = packed;
        for (int64_t c = b * g.block; c < std::min((b + 1) * g.block, g.groups); ++c)
          for (int64_t i = 0; i < G; ++i, to += V) {
            const uint32_t* from = x + ((i0 + std::min(i, present - 1)) * g.groups + c) * V;
            *reinterpret_cast<Elements*>(to) = *reinterpret_cast<const Elements*>(from);
          }
        for (int64_t f = f0; f < f1; ++f)
          accumulate<1, G, 0, G * V>(packed, g, f, b, sums + (f - f0) * G * V);
      }
      for (int64_t i = 0; i < present; ++i) {
        const int32_t* own = sums + i * V;
        if (g.floats) {
          for (int64_t f = f0; f < f1; ++f) {
            const Floats y = __builtin_convertvector(at(own + (f - f0) * G * V), Floats) * g.scale[f] + g.bias[f];
            for (int lane = 0; lane < V; ++lane) static_cast<float*>(out)[((i0 + i) * V + lane) * g.filters + f] = y[lane];
          }
          continue;
        }
        for (int64_t f = f0; f < f1; f += step) {
          const Elements made = element(g, f, [&](int64_t k) {
            Sums most = at(own + (f - f0 + k) * G * V);
            for (int64_t s = 4; s < step; s += 4) most = larger(most, at(own + (f - f0 + s + k) * G * V));
            return most;
          });
          *reinterpret_cast<Elements*>(static_cast<uint32_t*>(out) + ((i0 + i) * outputs + f / step) * V) = made;
        }
      }
    }
  });
}

// --------------------------------------------------------------------------------------------- positions in the vector

using Accumulate = void (*)(const uint32_t*, const Layer&, int64_t, int64_t, int32_t*);

template <int T>
void accumulate_positions(const uint32_t* x, const Layer& g, int64_t filter, int64_t block, int32_t* sums) {
  accumulate<1, T, 0, 1>(x, g, filter, block, sums);
}

Accumulate positions_kernel(int64_t vectors) {
  static_assert(kMostAccumulators == 8, "one case a vector");
  constexpr Accumulate kernels[] = {accumulate_positions<1>, accumulate_positions<2>, accumulate_positions<3>,
                                    accumulate_positions<4>, accumulate_positions<5>, accumulate_positions<6>,
                                    accumulate_positions<7>, accumulate_positions<8>};
  return vectors >= 1 && vectors <= kMostAccumulators ? kernels[vectors - 1] : nullptr;
}

}  // namespace

extern "C" {

int lanes() { return kLanes; }
int tile_rows() { return kRows; }
int tile_columns() { return kColumns; }
int most_accumulators() { return kMostAccumulators; }

// [N / V][groups][H][W][V] -> [N / V][filters / 4][H'][W'][V]; 1 where no kernel fits the layer
int conv_images(const Layer* layer, const void* x, void* out, int64_t images, int64_t threads) {
  const uint32_t* from = static_cast<const uint32_t*>(x);
  switch (layer->kernel) {
    case 1: conv_images_tiled<0>(*layer, from, static_cast<uint32_t*>(out), images, threads); return 0;
    case 3: conv_images_tiled<2>(*layer, from, static_cast<uint32_t*>(out), images, threads); return 0;
  }
  return 1;
}

// [N / V][groups][V] -> [N / V][filters / 4, or a quarter of them with `pool`][V], or float32 [N][filters]
int product_images(const Layer* layer, const void* x, void* out, int64_t images, int64_t threads) {
  const uint32_t* from = static_cast<const uint32_t*>(x);
  if (images >= 8) product_images_grouped<8>(*layer, from, out, images, threads);
  else if (images >= 4) product_images_grouped<4>(*layer, from, out, images, threads);
  else if (images >= 2) product_images_grouped<2>(*layer, from, out, images, threads);
  else product_images_grouped<1>(*layer, from, out, images, threads);
  return 0;
}

// [N][groups][H][W] -> [N][filters / 4][H'][W']; 1 where the tile does not fit the registers
int conv_positions(const Layer* layer, const void* x, void* out, int64_t images, int64_t threads) {
  const Layer& g = *layer;
  const int64_t vectors = (g.rows * g.columns + V - 1) / V, computed = vectors * V;
  const Accumulate kernel = positions_kernel(vectors);
  if (kernel == nullptr) return 1;
  // packed[element][kernel column][row][column]: one shifted copy a kernel column, so that a tile is contiguous
  const int64_t packed_rows = g.rows + g.kernel - 1, area = g.kernel * packed_rows * g.columns;
  const int64_t tiles_y = (g.out_height + g.rows - 1) / g.rows, tiles_x = (g.out_width + g.columns - 1) / g.columns;
  const int64_t tiles = images * tiles_y * tiles_x;
  const int64_t chunk = filters_per_task(g.filters, tiles, 4, threads), chunks = (g.filters + chunk - 1) / chunk;
  const int64_t shrink = g.pool ? 2 : 1, out_width = g.out_width / shrink, plane = g.out_height / shrink * out_width;
  const uint32_t outside = static_cast<uint32_t>(g.zero * 0x01010101);
  parallel(tiles * chunks, threads, [&](int64_t begin, int64_t end) {
    uint32_t* packed = static_cast<uint32_t*>(scratch(0, (g.block * area + computed) * 4));  // a last vector may reach past
    int32_t* sums = static_cast<int32_t*>(scratch(1, chunk * computed * 4));
    for (int64_t task = begin; task < end; ++task) {
      const int64_t f0 = task % chunks * chunk, f1 = std::min(f0 + chunk, g.filters);
      const int64_t tile = task / chunks, x0 = tile % tiles_x * g.columns, y0 = tile / tiles_x % tiles_y * g.rows;
      const int64_t image = tile / tiles_x / tiles_y;
      for (int64_t b = 0; b < g.blocks; ++b) {
        uint32_t* to = packed;
        for (int64_t c = b * g.block; c < std::min((b + 1) * g.block, g.groups); ++c)
          for (int64_t kx = 0; kx < g.kernel; ++kx) {
            const int64_t first = x0 + kx - g.padding, before = std::clamp<int64_t>(-first, 0, g.columns);
            const int64_t until = std::clamp(g.width - first, before, g.columns);
            for (int64_t r = 0; r < packed_rows; ++r, to += g.columns) {
              const int64_t y = y0 + r - g.padding;
              const bool within = y >= 0 && y < g.height;
              const uint32_t* row =
                  static_cast<const uint32_t*>(x) + ((image * g.groups + c) * g.height + y) * g.width + first;
              const int64_t left = within ? before : g.columns, right = within ? until : g.columns;
              for (int64_t q = 0; q < left; ++q) to[q] = outside;
              for (int64_t q = left; q < right; ++q) to[q] = row[q];  // the compiler makes vectors of it
              for (int64_t q = right; q < g.columns; ++q) to[q] = outside;
            }
          }
        for (int64_t f = f0; f < f1; ++f) kernel(packed, g, f, b, sums + (f - f0) * computed);
      }
      const int64_t down = std::min(g.rows, g.out_height - y0), across = std::min(g.columns, g.out_width - x0);
      for (int64_t f = f0; f < f1; f += 4) {
        int32_t* own = sums + (f - f0) * computed;
        if (g.pool)  // the largest of each window, where its first position was
          for (int64_t k = 0; k < 4; ++k)
            for (int64_t r = 0; r + 1 < down; r += 2)
              for (int64_t q = 0; q + 1 < across; q += 2) {
                int32_t* s = own + k * computed + r * g.columns + q;
                s[0] = std::max(std::max(s[0], s[1]), std::max(s[g.columns], s[g.columns + 1]));
              }
        uint32_t* made = reinterpret_cast<uint32_t*>(own);  // in place of the first filter's sums
        for (int64_t v = 0; v < computed; v += V)
          *reinterpret_cast<Elements*>(made + v) = element(g, f, [&](int64_t k) { return at(own + k * computed + v); });
        uint32_t* to = static_cast<uint32_t*>(out) + (image * (g.filters / 4) + f / 4) * plane;
        for (int64_t r = 0; r + shrink <= down; r += shrink)
          for (int64_t q = 0; q + shrink <= across; q += shrink)
            to[(y0 + r) / shrink * out_width + (x0 + q) / shrink] = made[r * g.columns + q];
      }
    }
  });
  return 0;
}

// A matrix product for few images, [N][groups] -> [N][filters / 4], or float32 [N][filters]: every output gathers its inputs.
int product_single(const Layer* layer, const void* x, void* out, int64_t images, int64_t threads) {
  const Layer& g = *layer;
  parallel(images * (g.filters / 4), threads, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t image = task / (g.filters / 4), f0 = task % (g.filters / 4) * 4;
      Sums sum[4] = {};
      for (int64_t k = 0; k < 4; ++k)
        for (int64_t b = 0; b < g.blocks; ++b) {
          const uint32_t* input = static_cast<const uint32_t*>(x) + image * g.groups + b * g.block;
          for (int32_t i = g.starts[b * g.filters + f0 + k]; i < g.starts[b * g.filters + f0 + k + 1]; ++i)
            for (int c = 0; c < 4; ++c) {
              sum[k][0] += static_cast<const int8_t*>(g.values)[4 * i + c] * static_cast<int32_t>(input[g.offsets[i]] >> 8 * c & 255);
            }
        }
      if (g.floats)
        for (int64_t k = 0; k < 4; ++k)
          static_cast<float*>(out)[image * g.filters + f0 + k] = static_cast<float>(sum[k][0]) * g.scale[f0 + k] + g.bias[f0 + k];
      else
        static_cast<uint32_t*>(out)[task] = element(g, f0, [&](int64_t k) { return sum[k]; })[0];
    }
  });
  return 0;
}

}  // extern "C"
