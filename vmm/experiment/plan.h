// Which runs an experiment has, and in what order.
#ifndef QUIRE_VMM_EXPERIMENT_PLAN_H_
#define QUIRE_VMM_EXPERIMENT_PLAN_H_

#include <cstdint>
#include <string>
#include <vector>

#include "vmm/experiment/experiment.h"

namespace quire {

struct PlannedRun {
  const Variant* variant = nullptr;
  int repetition = 1;
  uint64_t seed = 1;  // the same for all variants of a repetition

  // "engine=quire overcommit=2 repetition=1"
  std::string name() const;
};

// Runs that are to be compared with each other: they differ by the engine alone, and follow each other directly, on the
// same machine.
using RunGroup = std::vector<PlannedRun>;

// All repetitions of everything, the first ones first. A machine that grows slower or faster over time favours nobody:
// each engine comes first in its turn, and each setting has its repetitions all over the time. `experiment` outlives
// the result.
std::vector<RunGroup> PlanRuns(const Experiment& experiment);

// On a cluster, groups are dealt out to so many tasks at most: Slurm's job arrays have 1001 unless told otherwise.
inline constexpr size_t kMostTasks = 1000;
constexpr size_t TaskOf(size_t group) { return group % kMostTasks; }

}  // namespace quire

#endif  // QUIRE_VMM_EXPERIMENT_PLAN_H_
