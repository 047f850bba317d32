// An oracle for merging: sees every page once, at leisure, and knows how many could go if equal ones shared one frame.
#ifndef QUIRE_VMM_BENCH_DUPLICATE_COUNTER_H_
#define QUIRE_VMM_BENCH_DUPLICATE_COUNTER_H_

#include <cstddef>
#include <cstdint>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "base/units.h"

namespace quire {

// For one thread. Pages of zeros are content like any other: one of them stays.
class DuplicateCounter {
 public:
  // `page` has 4096 bytes.
  void Add(const std::byte* page);

  PageCount pages() const { return pages_; }
  PageCount duplicates() const { return pages_ - PageCount(contents_.size()); }

 private:
  // 128 bits: of a billion pages two different ones have the same hash with a probability of 10^-21.
  using Hash = std::pair<uint64_t, uint64_t>;

  PageCount pages_;
  absl::flat_hash_set<Hash> contents_;
};

}  // namespace quire

#endif  // QUIRE_VMM_BENCH_DUPLICATE_COUNTER_H_
