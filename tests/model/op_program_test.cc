#include "tests/model/op_program.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <variant>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/model/machine.h"

namespace quire::model {
namespace {

using ::testing::HasSubstr;

// Those of even seeds have a swap area.
Program RandomProgram(uint32_t seed, size_t operations) {
  RandomDice dice(seed);
  Program program;
  while (program.size() < operations) {
    const Op op = RandomOp(dice);
    if (seed % 2 == 0 || !std::holds_alternative<WriteOut>(op)) program.push_back(op);
  }
  return program;
}

void ExpectRuns(const Program& program) {
  const Outcome outcome = RunInChild(program);
  if (outcome.status.ok()) return;
  // Up to the failure, or else up to the comparison at the end.
  Program shrunk(program.begin(), program.begin() + static_cast<ptrdiff_t>(outcome.operations));
  shrunk = Shrink(shrunk, /*tries=*/300, [](const Program& p) { return !RunInChild(p, /*quiet=*/true).status.ok(); });
  const Outcome again = RunInChild(shrunk);
  ADD_FAILURE() << "after " << outcome.operations << " operations: " << outcome.status << "\nAs a regression test:\n"
                << "TEST(OpProgramTest, ...) {\n  // " << again.status << "\n  ExpectRuns(" << ToCpp(shrunk)
                << ");\n}\n";
}

// Together 200 000 operations. Programs of this length have gone through every state many times; several of them start
// from the beginning again, where other things can happen.
class OpProgramTest : public ::testing::TestWithParam<uint32_t> {};
TEST_P(OpProgramTest, GuestsReadWhatTheyWrote) { ExpectRuns(RandomProgram(GetParam(), 25'000)); }
INSTANTIATE_TEST_SUITE_P(Seeds, OpProgramTest, ::testing::Range(1u, 9u));

// --- The machinery itself.

TEST(OpProgramTextTest, ProgramsPrintAsTheCppThatTheyAre) {
  EXPECT_EQ(ToCpp(Program{Write{.guest = 1, .page = 2, .content = Content::kNoise, .seed = 3}, Unwire{},
                          AddGuest{.pages = 4, .placement = Placement::kArena, .mmu = Mmu::kEpt, .frames = 5}}),
            "{\n"
            "    Write{.guest = 1, .page = 2, .content = Content::kNoise, .seed = 3},\n"
            "    Unwire{},\n"
            "    AddGuest{.pages = 4, .placement = Placement::kArena, .mmu = Mmu::kEpt, .frames = 5, .swapped = 0},\n"
            "}");
}

TEST(OpProgramTextTest, EveryKindOfOperationComesUpAndPrints) {
  std::vector<int> kinds(std::variant_size_v<Op>);
  for (const Op& op : RandomProgram(2, 20'000)) {
    ++kinds[op.index()];
    EXPECT_THAT(ToCpp(op), HasSubstr("{"));
  }
  EXPECT_THAT(kinds, ::testing::Each(::testing::Gt(5)));
}

TEST(OpProgramTextTest, AFuzzersBytesChooseOperationsAndEnd) {
  const std::vector<uint8_t> bytes(100, 0x5a);
  BytesDice dice(bytes);
  Program program;
  while (!dice.empty()) program.push_back(RandomOp(dice));
  EXPECT_GT(program.size(), 5u);
  EXPECT_LT(program.size(), 100u);
  EXPECT_EQ(dice.Below(10), 0u);
}

TEST(MachineTest, ReclaimReallyHappensInRandomPrograms) {
  Machine machine;
  RandomDice dice(7);
  for (int i = 0; i < 5'000; ++i) ASSERT_EQ(machine.Apply(RandomOp(dice)), absl::OkStatus());
  EXPECT_GT(machine.manager().swap().pages_out.value(), 1'000u);
  EXPECT_GT(machine.manager().swap().pages_in.value(), 100u);
  EXPECT_GT(machine.manager().faults().second_chance.value(), 100u);
}

TEST(MachineTest, CompactionReallyMovesPagesInRandomPrograms) {
  Machine machine;
  RandomDice dice(7);
  for (int i = 0; i < 20'000; ++i) ASSERT_EQ(machine.Apply(RandomOp(dice)), absl::OkStatus());
  const CompactionCounters& counters = machine.manager().pool().compaction()->counters();
  EXPECT_GT(counters.migrated_pages.value(), 500u);
  EXPECT_GT(counters.blocks.value(), 5u);
}

TEST(MachineTest, BlocksReallyComeAheadAndPagesGoAsTheyAreInRandomPrograms) {
  Machine machine;
  RandomDice dice(7);
  for (int i = 0; i < 20'000; ++i) ASSERT_EQ(machine.Apply(RandomOp(dice)), absl::OkStatus());
  EXPECT_GT(machine.manager().faults().prefetched.value(), 5u);
  EXPECT_GT(machine.manager().swap().stored_as_is.value(), 50u);
}

TEST(MachineTest, PagesReallyGoToTheSwapAreaAndComeBackInRandomPrograms) {
  Machine machine(/*has_swap_area=*/true);
  RandomDice dice(7);
  for (int i = 0; i < 20'000; ++i) ASSERT_EQ(machine.Apply(RandomOp(dice)), absl::OkStatus());
  const SwapAreaCounters& counters = machine.manager().store().areas()[0]->counters();
  EXPECT_GT(counters.bytes_written.value(), uint64_t{20} << 20);
  EXPECT_GT(counters.bytes_read.value(), uint64_t{4} << 20);
  EXPECT_EQ(machine.CompareAll(), absl::OkStatus());
}

TEST(MachineTest, PagesReallyShareFramesAndStopInRandomPrograms) {
  Machine machine(/*has_swap_area=*/true);
  RandomDice dice(7);
  for (int i = 0; i < 20'000; ++i) ASSERT_EQ(machine.Apply(RandomOp(dice)), absl::OkStatus());
  EXPECT_GT(machine.manager().merger().counters().merged.value(), 50u);
  EXPECT_GT(machine.manager().faults().unshare.value(), 30u);
  EXPECT_GT(machine.manager().shared_reclaim().evicted.value(), 2u);
  EXPECT_GT(machine.manager().islands().refused(), 0u);
  EXPECT_GT(machine.manager().swap().unchanged.value(), 10u);
  EXPECT_EQ(machine.Check(), absl::OkStatus());
  EXPECT_EQ(machine.CompareAll(), absl::OkStatus());
}

TEST(MachineTest, PagesAreReallyCompressedOnceMoreInRandomPrograms) {
  Machine machine;
  RandomDice dice(7);
  for (int i = 0; i < 5'000; ++i) ASSERT_EQ(machine.Apply(RandomOp(dice)), absl::OkStatus());
  EXPECT_GT(machine.manager().store().statistics().recompressed, 100u);
}

TEST(MachineTest, WiredPagesReallyAreInTheWayInRandomPrograms) {
  Machine machine;
  RandomDice dice(7);
  for (int i = 0; i < 20'000; ++i) ASSERT_EQ(machine.Apply(RandomOp(dice)), absl::OkStatus());
  const Wiring& wiring = machine.manager().wiring();
  EXPECT_GT(wiring.refused_reclaim.value(), 1'000u);
  EXPECT_GT(wiring.limit.peak(), PageCount(50));
  EXPECT_GT(machine.manager().merger().counters().Refused(MergeRefusal::kWired), 5u);
}

TEST(MachineTest, DevicesReallyHaveTranslationsAndLoseThemInRandomPrograms) {
  Machine machine;
  RandomDice dice(7);
  for (int i = 0; i < 20'000; ++i) ASSERT_EQ(machine.Apply(RandomOp(dice)), absl::OkStatus());
  EXPECT_GT(machine.device_hits(), 100u);
  EXPECT_GT(machine.translations_dropped(), 100u);
}

TEST(MachineTest, EqualPagesAreReallyStoredOnceInRandomPrograms) {
  Machine machine(/*has_swap_area=*/true);
  RandomDice dice(7);
  for (int i = 0; i < 20'000; ++i) ASSERT_EQ(machine.Apply(RandomOp(dice)), absl::OkStatus());
  EXPECT_GT(machine.manager().store().statistics().deduplicated, 100u);
}

TEST(MachineTest, LimitsOfGuestsReallyCountInRandomPrograms) {
  Machine machine;
  RandomDice dice(7);
  for (int i = 0; i < 80'000; ++i) ASSERT_EQ(machine.Apply(RandomOp(dice)), absl::OkStatus());
  EXPECT_GT(machine.manager().reclaimer().counters().at_limit.value(), 5u);
  EXPECT_GT(machine.manager().swap().refused_limit.value(), 50u);
}

TEST(MachineTest, AGuestWhoseLimitIsLoweredGoesOnInRandomPrograms) {
  Machine machine;
  for (uint32_t page = 0; page < 1'500; ++page) {
    ASSERT_EQ(machine.Apply(Write{.guest = 1, .page = page, .content = Content::kCompressible, .seed = page}),
              absl::OkStatus());
  }
  ASSERT_EQ(machine.Apply(SetLimits{.guest = 1, .frames = 1'024, .swapped = 0}), absl::OkStatus());
  EXPECT_GT(machine.BeyondLimits()[1], PageCount());
  RandomDice dice(7);
  for (int i = 0; i < 5'000; ++i) ASSERT_EQ(machine.Apply(RandomOp(dice)), absl::OkStatus());
  EXPECT_EQ(machine.Check(), absl::OkStatus());
  EXPECT_EQ(machine.CompareAll(), absl::OkStatus());
}

TEST(MachineTest, ClonesReallyInheritAndCopyInRandomPrograms) {
  Machine machine;
  RandomDice dice(7);
  for (int i = 0; i < 20'000; ++i) ASSERT_EQ(machine.Apply(RandomOp(dice)), absl::OkStatus());
  EXPECT_GT(machine.manager().faults().inherited.value(), 300u);
  EXPECT_GT(machine.manager().faults().unshare.value(), 100u);
  EXPECT_EQ(machine.Check(), absl::OkStatus());
}

TEST(MachineTest, MemoryReallyFailsInRandomPrograms) {
  Machine machine;
  RandomDice dice(7);
  for (int i = 0; i < 30'000; ++i) ASSERT_EQ(machine.Apply(RandomOp(dice)), absl::OkStatus());
  EXPECT_GT(machine.manager().pool().poisoned(), PageCount(4));
  EXPECT_EQ(machine.Check(), absl::OkStatus());
}

TEST(MachineTest, AWrongByteIsFound) {
  Machine machine;
  ASSERT_EQ(machine.Apply(Write{.guest = 1, .page = 5, .content = Content::kNoise, .seed = 1}), absl::OkStatus());
  // Guest 1 has the first reservation, right behind the arena.
  const FrameNumber home(Machine::kPool.in_pages() + 5);
  machine.manager().pool().Frame(home)[4095] ^= std::byte{1};
  EXPECT_THAT(std::string(machine.CompareAll().message()), HasSubstr("page 5 of guest 1"));
}

TEST(ShrinkTest, LeavesWhatItTakesToFail) {
  const auto fails = [](const Program& program) {
    const auto is_wire = [](const Op& op) { return std::holds_alternative<Wire>(op); };
    const auto wire = std::find_if(program.begin(), program.end(), is_wire);
    return std::any_of(wire, program.end(), [](const Op& op) { return std::holds_alternative<Discard>(op); });
  };
  const Program shrunk = Shrink(RandomProgram(3, 5'000), /*tries=*/300, fails);
  ASSERT_EQ(shrunk.size(), 2u) << ToCpp(shrunk);
  EXPECT_TRUE(fails(shrunk));
}

TEST(ShrinkTest, GivesUpAfterSoManyTries) {
  int asked = 0;
  Shrink(RandomProgram(3, 1'000), /*tries=*/5, [&](const Program&) { return ++asked, false; });
  EXPECT_EQ(asked, 5);
}

}  // namespace
}  // namespace quire::model
