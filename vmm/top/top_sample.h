// What `quire top` shows of a run: read from the answer to GET /v1/report.
#ifndef QUIRE_VMM_TOP_TOP_SAMPLE_H_
#define QUIRE_VMM_TOP_TOP_SAMPLE_H_

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "base/units.h"

namespace quire {

struct TopGuest {
  uint64_t id = 0;
  std::string name = {};
  std::string state = {};
  ByteCount memory = {};
  // Of it:
  ByteCount resident = {};
  ByteCount out = {};
  ByteCount shared = {};
  ByteCount compressed = {};
  // Since the start of the run:
  uint64_t operations = 0;
  uint64_t faults = 0;
  uint64_t reclaimed_pages = 0;
  uint64_t mismatched_pages = 0;
  ByteCount pool_limit = {};  // zero: none
  // Of a guest that has one:
  std::optional<ByteCount> balloon = {};
};

struct TopSample {
  std::string engine = {};
  std::string accel = {};
  std::string merge = {};  // the policies
  std::string huge = {};
  double elapsed_seconds = 0;
  ByteCount pool_limit = {};  // zero: there is no pool
  ByteCount resident = {};
  ByteCount out = {};
  ByteCount shared = {};
  ByteCount compressed = {};
  ByteCount wired = {};
  ByteCount free = {};
  ByteCount saved = {};   // by merging
  ByteCount blocks = {};  // mapped by 2 MiB
  uint64_t faults = 0;
  uint64_t pages_out = 0;
  uint64_t pages_in = 0;
  double p50_us = 0;
  double p99_us = 0;
  std::vector<std::pair<std::string, double>> cpu_seconds = {};  // by kind of thread
  std::vector<TopGuest> guests = {};
};

// What is not there, or of another type than it should be, is zero. Error: Internal, it is no report.
absl::StatusOr<TopSample> ParseTopSample(absl::string_view report);

}  // namespace quire

#endif  // QUIRE_VMM_TOP_TOP_SAMPLE_H_
