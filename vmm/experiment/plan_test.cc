#include "vmm/experiment/plan.h"

#include <map>
#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "base/units.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "vmm/experiment/experiment.h"

namespace quire {
namespace {

using ::testing::ElementsAre;

Experiment Read(absl::string_view text) {
  const RunLimits limits = {.host_memory = ByteCount::GiB(4),
                            .guest_address_space = ByteCount::GiB(512),
                            .minimum_pool = ByteCount(),
                            .check_workload = [](absl::string_view) { return absl::OkStatus(); }};
  absl::StatusOr<Experiment> experiment = ParseExperiment("some.toml", text, false, limits);
  EXPECT_TRUE(experiment.ok()) << experiment.status();
  return experiment.ok() ? *std::move(experiment) : Experiment{};
}

std::vector<std::string> Names(const RunGroup& group) {
  std::vector<std::string> names;
  for (const PlannedRun& run : group) names.push_back(run.name());
  return names;
}

TEST(PlanTest, EnginesOfASettingAreSideBySideAndEachIsFirstInItsTurn) {
  const Experiment experiment = Read(R"(
repetitions = 3
[guests.a]
memory = "64M"
[matrix]
engine = ["quire", "kernel", "kernel-best"]
merge = ["on", "off"]
)");
  const std::vector<RunGroup> groups = PlanRuns(experiment);
  ASSERT_EQ(groups.size(), 6u);
  EXPECT_THAT(Names(groups[0]), ElementsAre("engine=quire merge=on repetition=1", "engine=kernel merge=on repetition=1",
                                            "engine=kernel-best merge=on repetition=1"));
  EXPECT_THAT(Names(groups[1]),
              ElementsAre("engine=quire merge=off repetition=1", "engine=kernel merge=off repetition=1",
                          "engine=kernel-best merge=off repetition=1"));
  EXPECT_THAT(Names(groups[2]),
              ElementsAre("engine=kernel merge=on repetition=2", "engine=kernel-best merge=on repetition=2",
                          "engine=quire merge=on repetition=2"));
  EXPECT_THAT(Names(groups[5]),
              ElementsAre("engine=kernel-best merge=off repetition=3", "engine=quire merge=off repetition=3",
                          "engine=kernel merge=off repetition=3"));
}

TEST(PlanTest, EachRunIsThereOnceAndRepetitionsComeOneAfterTheOther) {
  const Experiment experiment = Read(R"(
repetitions = 7
seed = 100
[guests.a]
memory = "128M"
[matrix]
guests.a.load = [1, 10, 100]
engine = ["quire", "kernel"]
overcommit = [1.0, 2.0, 4.0]
)");
  std::set<std::string> names;
  std::map<int, std::set<uint64_t>> seeds;
  int latest = 1;
  for (const RunGroup& group : PlanRuns(experiment)) {
    ASSERT_EQ(group.size(), 2u);
    for (const PlannedRun& run : group) {
      EXPECT_TRUE(names.insert(run.name()).second) << run.name();
      seeds[run.repetition].insert(run.seed);
      EXPECT_GE(run.repetition, latest);
      latest = run.repetition;
    }
    EXPECT_NE(group[0].variant->contender, group[1].variant->contender);
    EXPECT_EQ(group[0].variant->options.pool, group[1].variant->options.pool);
    EXPECT_EQ(group[0].variant->options.groups[0].idle_percent, group[1].variant->options.groups[0].idle_percent);
  }
  EXPECT_EQ(names.size(), experiment.runs());
  EXPECT_EQ(names.size(), 126u);
  // All settings of a repetition have the same seed, the next repetition the next.
  for (int repetition = 1; repetition <= 7; ++repetition) {
    EXPECT_THAT(seeds[repetition], ElementsAre(99u + static_cast<uint64_t>(repetition)));
  }
}

TEST(PlanTest, WithoutAMatrixThereAreOnlyRepetitions) {
  const Experiment experiment = Read("repetitions = 2\n[guests.a]\nmemory = \"64M\"\n");
  const std::vector<RunGroup> groups = PlanRuns(experiment);
  ASSERT_EQ(groups.size(), 2u);
  EXPECT_THAT(Names(groups[0]), ElementsAre("repetition=1"));
  EXPECT_THAT(Names(groups[1]), ElementsAre("repetition=2"));
}

TEST(PlanTest, TheEngineAloneMakesAGroup) {
  const Experiment experiment =
      Read("repetitions = 1\n[guests.a]\nmemory = \"64M\"\n[matrix]\nengine = [\"kernel\", \"quire\"]\n");
  const std::vector<RunGroup> groups = PlanRuns(experiment);
  ASSERT_EQ(groups.size(), 1u);
  EXPECT_THAT(Names(groups[0]), ElementsAre("engine=kernel repetition=1", "engine=quire repetition=1"));
}

TEST(PlanTest, TasksAreAtMostAThousandAndEachGroupHasOne) {
  std::map<size_t, int> groups;
  for (size_t group = 0; group < 2500; ++group) ++groups[TaskOf(group)];
  EXPECT_EQ(groups.size(), kMostTasks);
  EXPECT_EQ(groups.rbegin()->first, kMostTasks - 1);
  for (const auto& [task, count] : groups) EXPECT_LE(count, 3);
}

}  // namespace
}  // namespace quire
