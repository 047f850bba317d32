// With software guests. Time is what the test says it is; guests are waited for.
#include "vmm/phase_runner.h"

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "vmm/guest_set.h"
#include "vmm/machine/machine.h"
#include "vmm/options.h"
#include "workloads/spec.h"

namespace quire {
namespace {

using ::testing::ElementsAre;

constexpr MonotonicTime kStart = MonotonicTime::FromNanoseconds(1'000'000'000'000);

GuestGroup Group(const std::string& name, int guests) {
  return {.name = name, .guests = guests, .memory = ByteCount::MiB(4), .workload = "zipf"};
}

Phase PhaseOf(const std::string& name) { return {.name = name, .duration = absl::Seconds(10)}; }

class PhaseRunnerTest : public testing::Test {
 protected:
  void Make(const std::vector<GuestGroup>& groups, const std::vector<Phase>& phases) {
    options_.accel = Accel::kSoft;
    options_.pool = ByteCount::MiB(64);
    options_.groups = groups;
    options_.schedule = Schedule{.phases = phases};
    absl::StatusOr<std::unique_ptr<GuestSet>> set = GuestSet::Create(options_, *ParseWorkload("zipf"));
    ASSERT_TRUE(set.ok()) << set.status();
    set_ = *std::move(set);
    set_->Start();
    runner_.emplace(*options_.schedule, *set_, kStart);
  }
  void TearDown() override {
    if (set_ == nullptr) return;
    set_->RequestStop();
    while (!set_->AllFinished()) absl::SleepFor(absl::Milliseconds(1));
    set_->Join();
  }

  bool AdvanceTo(double seconds) { return runner_->Advance(kStart + absl::Seconds(seconds)); }
  // Time stands still until the guests have come so far.
  void AdvanceUntil(double seconds, const std::function<bool()>& done) {
    while (!done()) {
      absl::SleepFor(absl::Milliseconds(1));
      AdvanceTo(seconds);
    }
  }
  void Fill() {
    AdvanceUntil(0, [&] { return runner_->name() != PhaseRunner::kFill; });
  }
  Machine& MachineOf(size_t guest) { return *set_->guests()[guest].machine; }
  std::vector<bool> Started() const {
    std::vector<bool> started;
    for (const GuestSet::Guest& guest : set_->guests()) started.push_back(guest.machine->started());
    return started;
  }
  static void WaitFor(const std::function<bool()>& done) {
    while (!done()) absl::SleepFor(absl::Milliseconds(1));
  }

  RunOptions options_;
  std::unique_ptr<GuestSet> set_;
  std::optional<PhaseRunner> runner_;
};

TEST_F(PhaseRunnerTest, TheFirstPhaseBeginsWhenAllGuestsHaveFilledTheirMemory) {
  Make({Group("a", 2)}, {PhaseOf("first")});
  EXPECT_EQ(runner_->name(), "fill");
  Fill();
  EXPECT_EQ(runner_->name(), "first");
  for (size_t guest = 0; guest < 2; ++guest) EXPECT_GT(MachineOf(guest).ReadProgress().phase, 0u);
}

TEST_F(PhaseRunnerTest, FillingIsNotWaitedForForEver) {
  GuestGroup slow = Group("a", 1);
  slow.idle_percent = 100;
  Make({slow}, {PhaseOf("first")});
  EXPECT_TRUE(AdvanceTo(absl::ToDoubleSeconds(options_.schedule->fill_limit)));
  EXPECT_EQ(runner_->name(), "first");
}

TEST_F(PhaseRunnerTest, PhasesFollowEachOtherWhenTheirTimeIsOver) {
  Phase second = PhaseOf("second");
  second.measured = false;
  Make({Group("a", 1)}, {PhaseOf("first"), second});
  Fill();
  EXPECT_TRUE(AdvanceTo(9.999));
  EXPECT_EQ(runner_->name(), "first");
  EXPECT_TRUE(AdvanceTo(10));
  EXPECT_EQ(runner_->name(), "second");
  EXPECT_LE(runner_->next(), kStart + absl::Seconds(20));
  EXPECT_TRUE(AdvanceTo(19.999));
  EXPECT_FALSE(AdvanceTo(20));
  const std::vector<PhaseReport> phases = runner_->Finish(kStart + absl::Seconds(20));
  ASSERT_EQ(phases.size(), 3u);
  EXPECT_EQ(phases[0].name, "fill");
  EXPECT_FALSE(phases[0].measured);
  EXPECT_EQ(phases[1].begin_seconds, 0);
  EXPECT_EQ(phases[1].end_seconds, 10);
  EXPECT_TRUE(phases[1].measured);
  EXPECT_EQ(phases[2].begin_seconds, 10);
  EXPECT_EQ(phases[2].end_seconds, 20);
  EXPECT_FALSE(phases[2].measured);
  EXPECT_EQ(phases[1].guests, 1u);
}

TEST_F(PhaseRunnerTest, WhatIsDoneBelongsToThePhaseThatItIsDoneIn) {
  Make({Group("a", 1)}, {PhaseOf("first"), PhaseOf("second")});
  Fill();
  WaitFor([&] { return MachineOf(0).ReadProgress().operations > 1000; });
  AdvanceTo(10);
  const uint64_t before = MachineOf(0).ReadProgress().operations;
  WaitFor([&] { return MachineOf(0).ReadProgress().operations > before + 500; });
  EXPECT_FALSE(AdvanceTo(20));
  const std::vector<PhaseReport> phases = runner_->Finish(kStart + absl::Seconds(20));
  EXPECT_GT(phases[0].operations + phases[1].operations, 1000u);
  EXPECT_GT(phases[2].operations, 500u);
  EXPECT_LE(phases[0].operations + phases[1].operations + phases[2].operations, MachineOf(0).ReadProgress().operations);
  uint64_t counted = 0;
  for (const uint64_t count : runner_->latency().counts) counted += count;
  EXPECT_GT(counted, 0u);
}

TEST_F(PhaseRunnerTest, GroupsStartAndStopWithTheirPhases) {
  Phase second = PhaseOf("second"), third = PhaseOf("third");
  second.start = {1};
  third.stop = {0};
  Make({Group("a", 1), Group("b", 2)}, {PhaseOf("first"), second, third});
  Fill();
  EXPECT_THAT(Started(), ElementsAre(true, false, false));
  EXPECT_TRUE(runner_->TakeNews());
  EXPECT_FALSE(runner_->TakeNews());
  AdvanceTo(10);
  EXPECT_TRUE(runner_->TakeNews());
  EXPECT_THAT(Started(), ElementsAre(true, true, true));
  EXPECT_FALSE(MachineOf(0).finished());
  // Those that are filling their memory do not count.
  WaitFor([&] { return MachineOf(1).ReadProgress().phase > 0 && MachineOf(2).ReadProgress().phase > 0; });
  AdvanceTo(15);
  AdvanceTo(20);
  EXPECT_EQ(runner_->name(), "third");
  WaitFor([&] { return MachineOf(0).finished(); });
  EXPECT_EQ(MachineOf(0).exit(), absl::OkStatus());
  EXPECT_FALSE(MachineOf(1).finished());
  // The others go on.
  EXPECT_TRUE(AdvanceTo(25));
  const std::vector<PhaseReport> phases = runner_->Finish(kStart + absl::Seconds(30));
  EXPECT_EQ(phases[1].guests, 1u);
  EXPECT_EQ(phases[2].guests, 3u);
  EXPECT_EQ(phases[3].end_seconds, 30);
}

TEST_F(PhaseRunnerTest, AGuestThatDoesNotWorkAtAllDoesNothingMore) {
  Phase second = PhaseOf("second");
  second.idle_percent = {{0, 100}};
  Make({Group("a", 1)}, {PhaseOf("first"), second});
  Fill();
  AdvanceTo(10);
  // It notices at its next operations, and then there are two moments between which it does none.
  uint64_t last = 0;
  WaitFor([&] {
    const uint64_t before = std::exchange(last, MachineOf(0).ReadProgress().operations);
    absl::SleepFor(absl::Milliseconds(20));
    return last == before && last > 0;
  });
  EXPECT_FALSE(MachineOf(0).finished());
}

TEST_F(PhaseRunnerTest, GuestsComeOneByOneWhenItIsTime) {
  Phase come = PhaseOf("come");
  come.one_by_one = {.group = 1, .every = absl::Seconds(1)};
  Make({Group("a", 1), Group("b", 3)}, {come, PhaseOf("last")});
  Fill();
  EXPECT_THAT(Started(), ElementsAre(true, true, false, false));
  AdvanceTo(0.999);
  WaitFor([&] { return MachineOf(1).ReadProgress().phase > 0; });
  EXPECT_THAT(Started(), ElementsAre(true, true, false, false));
  AdvanceTo(1);
  EXPECT_THAT(Started(), ElementsAre(true, true, true, false));
  AdvanceTo(1.5);
  EXPECT_THAT(Started(), ElementsAre(true, true, true, false));
  // Not before the others have filled their memory.
  WaitFor([&] { return MachineOf(2).ReadProgress().phase > 0; });
  AdvanceTo(2);
  EXPECT_THAT(Started(), ElementsAre(true, true, true, true));
  // Until the last one has filled its memory, and had its second.
  WaitFor([&] { return MachineOf(3).ReadProgress().phase > 0; });
  AdvanceTo(2.9);
  EXPECT_EQ(runner_->name(), "come");
  AdvanceUntil(3, [&] { return runner_->name() == "last"; });
  const std::vector<PhaseReport> phases = runner_->Finish(kStart + absl::Seconds(4));
  EXPECT_EQ(phases[1].guests, 4u);
  EXPECT_EQ(phases[1].end_seconds, 3);
}

TEST_F(PhaseRunnerTest, NobodyComesAfterOneWasStoppedForWantOfMemory) {
  Phase come = PhaseOf("come");
  come.one_by_one = {.group = 0, .every = absl::Seconds(1)};
  Make({Group("b", 3)}, {come});
  Fill();
  WaitFor([&] { return MachineOf(0).ReadProgress().phase > 0; });
  AdvanceTo(1);
  MachineOf(1).Kill(absl::ResourceExhaustedError("no more memory"));
  WaitFor([&] { return MachineOf(1).finished(); });
  EXPECT_FALSE(AdvanceTo(2.5));
  EXPECT_THAT(Started(), ElementsAre(true, true, false));
}

TEST_F(PhaseRunnerTest, WhenAllGuestsHaveEndedSoHaveAllPhases) {
  GuestGroup group = Group("a", 2);
  group.workload = "zipf:operations=100";
  Make({group}, {PhaseOf("first"), PhaseOf("second")});
  WaitFor([&] { return MachineOf(0).finished() && MachineOf(1).finished(); });
  EXPECT_FALSE(AdvanceTo(0.5));
  EXPECT_EQ(runner_->Finish(kStart + absl::Seconds(0.5)).size(), 3u);
}

// Those that are to come later.
TEST_F(PhaseRunnerTest, WhenTheFirstGuestsHaveEndedTheOthersStillCome) {
  GuestGroup group = Group("a", 1);
  group.workload = "zipf:operations=100";
  Phase second = PhaseOf("second");
  second.start = {1};
  Make({group, Group("b", 1)}, {PhaseOf("first"), second});
  WaitFor([&] { return MachineOf(0).finished(); });
  EXPECT_TRUE(AdvanceTo(0.5));
  EXPECT_EQ(runner_->name(), "first");
  EXPECT_TRUE(AdvanceTo(10.5));
  EXPECT_THAT(Started(), ElementsAre(true, true));
}

}  // namespace
}  // namespace quire
