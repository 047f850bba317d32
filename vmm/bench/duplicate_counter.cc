#include "vmm/bench/duplicate_counter.h"

#include "xxhash.h"

namespace quire {

void DuplicateCounter::Add(const std::byte* page) {
  const XXH128_hash_t hash = XXH3_128bits(page, kPageSize);
  contents_.emplace(hash.high64, hash.low64);
  pages_ += kOnePage;
}

}  // namespace quire
