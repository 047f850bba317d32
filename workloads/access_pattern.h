// Which page a workload touches next, and whether it writes. Freestanding: also compiled into the payload of KVM
// guests.
#ifndef QUIRE_WORKLOADS_ACCESS_PATTERN_H_
#define QUIRE_WORKLOADS_ACCESS_PATTERN_H_

#include <stdint.h>

#include "workloads/random.h"
#include "workloads/workload_spec.h"
#include "workloads/zipf.h"

namespace quire {

// Where `index` goes in a fixed pseudo-random permutation of [0, count), index < count. A bijection of the next power
// of two, repeated until the result is in range again (cycle walking: Black and Rogaway, "Ciphers with Arbitrary Finite
// Domains", 2002): less than twice on average.
constexpr uint64_t Scatter(uint64_t index, uint64_t count) {
  const int bits = count > 2 ? 64 - __builtin_clzll(count - 1) : 1;
  const uint64_t mask = (uint64_t{2} << (bits - 1)) - 1;
  const int shift = (bits + 1) / 2;
  do {
    for (int round = 0; round < 3; ++round) {
      index = (index * 0x9e3779b97f4a7c15 + 0x632be59bd9b4e019) & mask;
      index ^= index >> shift;
    }
  } while (index >= count);
  return index;
}

struct Operation {
  uint64_t index;  // 0 to count - 1
  bool write;
};

// The operations of one vCPU on its `count` pages (at least 1), determined by spec and seed. Not thread-safe.
class AccessPattern {
 public:
  // `zipf` is used by kZipf only, is built for at least `count` ranks and must outlive the pattern.
  AccessPattern(const WorkloadSpec& spec, const ZipfTable& zipf, uint64_t count, uint64_t seed)
      : spec_(spec),
        zipf_(zipf),
        count_(count),
        first_written_(count - static_cast<uint64_t>(spec.written * static_cast<double>(count))),
        set_(AtLeastOne(spec.set * static_cast<double>(count))),
        write_threshold_(static_cast<uint64_t>(spec.writes * 0x1p32)),
        random_(seed) {}

  Operation Next() {
    Operation operation = Choose();
    operation.write &= operation.index >= first_written_;
    return operation;
  }

 private:
  Operation Choose() {
    switch (spec_.kind) {
      case WorkloadKind::kTouch:
        return Touch();
      case WorkloadKind::kRandom:
        return {random_.Below(count_), Writes()};
      case WorkloadKind::kZipf:
        return {ZipfIndex(), Writes()};
      case WorkloadKind::kPhases:
        return {SetIndex(), Writes()};
      case WorkloadKind::kScan:
        return {Sequential(), Writes()};
      case WorkloadKind::kSweep:
        break;  // has no pattern of its own
    }
    return {0, false};
  }

  static uint64_t AtLeastOne(double value) { return value < 1 ? 1 : static_cast<uint64_t>(value); }

  bool Writes() { return random_.Next() >> 32 < write_threshold_; }

  uint64_t Sequential() {
    const uint64_t index = next_;
    next_ = next_ + 1 < count_ ? next_ + 1 : 0;
    if (next_ == 0) ++passes_;
    return index;
  }

  Operation Touch() {
    const bool writing_pass = passes_ % 2 == 0;
    return {Sequential(), writing_pass && Writes()};
  }

  uint64_t ZipfIndex() {
    uint64_t rank;
    do rank = ZipfRank(zipf_, random_);
    while (rank >= count_);  // the table may be made for one page more, that of another vCPU
    return spec_.scatter != 0 ? Scatter(rank, count_) : rank;
  }

  // The working set begins where the last one ended, and may wrap around.
  uint64_t SetIndex() {
    if (in_period_ == spec_.period) {
      in_period_ = 0;
      set_begin_ = (set_begin_ + set_) % count_;
    }
    ++in_period_;
    return (set_begin_ + random_.Below(set_)) % count_;
  }

  const WorkloadSpec spec_;
  const ZipfTable& zipf_;
  const uint64_t count_;
  const uint64_t first_written_;
  const uint64_t set_;  // pages of the working set
  const uint64_t write_threshold_;
  Random random_;
  uint64_t next_ = 0;
  uint64_t passes_ = 0;
  uint64_t set_begin_ = 0;
  uint64_t in_period_ = 0;
};

}  // namespace quire

#endif  // QUIRE_WORKLOADS_ACCESS_PATTERN_H_
