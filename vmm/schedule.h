// Guests of several kinds in one run, and what becomes of them as it goes on.
#ifndef QUIRE_VMM_SCHEDULE_H_
#define QUIRE_VMM_SCHEDULE_H_

#include <cstddef>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "base/units.h"

namespace quire {

// Guests of one kind.
struct GuestGroup {
  std::string name = "guest";  // they are NAME-0, NAME-1 and so on
  int guests = 1;
  ByteCount memory;               // of each
  int vcpus = 1;                  // of each
  std::string workload = {};      // of each, where guests run the project's own
  std::string command_line = {};  // of each, where they run a kernel
  int idle_percent = 0;           // of their time, 0 to 100: from the beginning
};

// A part of a run. What happens in it happens at its beginning. Groups by their numbers.
struct Phase {
  std::string name;
  absl::Duration duration = {};
  bool measured = true;
  std::vector<size_t> start = {};            // guests of these groups
  std::vector<size_t> stop = {};             // for good
  std::map<size_t, int> idle_percent = {};   // of guests' time, 0 to 100
  std::map<size_t, ByteCount> balloon = {};  // of each guest; they run kernels
  // Guests of a group start one after another, each when the one before has filled its memory. The phase ends early
  // when all have and theirs is filled, or when a guest is stopped for want of memory.
  struct OneByOne {
    size_t group;
    absl::Duration every;
  };
  std::optional<OneByOne> one_by_one = {};
};

// Groups that no phase starts run from the beginning: their guests fill their memory first, for at most `fill_limit`,
// before the first phase begins.
struct Schedule {
  std::vector<Phase> phases;
  absl::Duration fill_limit = absl::Minutes(5);

  bool StartsLater(size_t group) const {
    for (const Phase& phase : phases) {
      for (const size_t started : phase.start) {
        if (started == group) return true;
      }
      if (phase.one_by_one.has_value() && phase.one_by_one->group == group) return true;
    }
    return false;
  }
};

}  // namespace quire

#endif  // QUIRE_VMM_SCHEDULE_H_
