#include "guest/merge/page_hash.h"

#include "guest/merge/page_hash_vectors.h"
#include "xxhash.h"

namespace quire {

uint64_t HashPageBaseline(const void* page, uint64_t seed) { return XXH3_64bits_withSeed(page, 4096, seed); }

uint64_t HashPage(const std::byte* page, uint64_t seed) {
  static const bool has_avx2 = __builtin_cpu_supports("avx2");
  return has_avx2 ? HashPageAvx2(page, seed) : HashPageBaseline(page, seed);
}

}  // namespace quire
