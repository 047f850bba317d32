// What a workload does, as plain data that can be copied into a guest. Freestanding: also compiled into the payload of
// KVM guests. spec.h reads it from the command line and knows the meaning and the range of each field.
#ifndef QUIRE_WORKLOADS_WORKLOAD_SPEC_H_
#define QUIRE_WORKLOADS_WORKLOAD_SPEC_H_

#include <stdint.h>

namespace quire {

enum class WorkloadKind : uint64_t {
  kTouch,   // writes all pages in order, then reads them in order
  kRandom,  // uniformly random pages
  kZipf,    // pages of Zipf-distributed rank
  kPhases,  // uniformly random pages of a working set that moves
  kScan,    // all pages in order, over and over
  kSweep,   // for benchmarks: on the host's word, touches each page once in order, and then verifies them all
};

// A key that a workload does not take keeps its value here and is not used.
struct WorkloadSpec {
  WorkloadKind kind = WorkloadKind::kTouch;
  double touched = 1;        // share of the guest's memory that is used at all
  double advise = 1;         // share of the used memory, from its beginning, that the guest wants whole blocks for
  double wired = 0;          // share of the used memory, from its beginning, that the guest wires when it starts
  double common = 0;         // share of the used memory, from its beginning, that all guests of a run fill alike
  double written = 1;        // share of the used memory, up to its end, that operations write to
  double writes = 1;         // share of operations that write (touch: within the passes that write)
  double theta = 0.99;       // zipf: exponent
  double set = 0.25;         // phases: share of the used memory that is the working set
  uint64_t scatter = 0;      // zipf: 1 when ranks are scattered over the pages, 0 when they follow the pages' order
  uint64_t period = 100000;  // phases: operations of one vCPU before its working set moves
  uint64_t operations = 0;   // operations in all, after the pages were filled; 0: no limit
  uint64_t fill = 1;         // sweep: 0 when pages have never been touched before
};

}  // namespace quire

#endif  // QUIRE_WORKLOADS_WORKLOAD_SPEC_H_
