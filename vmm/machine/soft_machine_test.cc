// Guests whose memory the host kernel has: which advice it gets.

#include "vmm/machine/soft_machine.h"

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_split.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace quire {
namespace {

using ::testing::AllOf;
using ::testing::Contains;
using ::testing::Not;

constexpr PageCount kMemory = PageCount::OfBlocks(4);

// The flags of the mapping that holds an address, as /proc/self/smaps has them: "hg" is MADV_HUGEPAGE, "nh"
// MADV_NOHUGEPAGE.
std::vector<std::string> FlagsAt(Hva address) {
  std::ifstream smaps("/proc/self/smaps");
  bool here = false;
  for (std::string line; std::getline(smaps, line);) {
    unsigned long begin = 0, end = 0;
    if (std::sscanf(line.c_str(), "%lx-%lx ", &begin, &end) == 2) {
      here = begin <= address.value() && address.value() < end;
    }
    if (here && line.rfind("VmFlags:", 0) == 0) return absl::StrSplit(line, ' ');
  }
  return {};
}

class AnonymousMemoryTest : public ::testing::Test {
 protected:
  void Make(AnonymousBlocks blocks) {
    machine_ =
        SoftMachine::Create({.name = "guest", .memory = kMemory.bytes(), .work = &work_, .anonymous_blocks = blocks},
                            /*pool=*/nullptr, /*memory=*/nullptr)
            .value();
  }
  std::vector<std::string> FlagsOf(uint64_t block) {
    return FlagsAt(machine_->anonymous().hva() + PageCount::OfBlocks(block).bytes());
  }
  void SetUp() override {
    Make(AnonymousBlocks::kWanted);
    if (FlagsOf(0).empty()) GTEST_SKIP() << "this host does not say how memory is advised";
    if (std::vector<std::string> flags = FlagsOf(0); std::find(flags.begin(), flags.end(), "hg") == flags.end()) {
      GTEST_SKIP() << "this host has no huge pages";
    }
  }

  const Work work_ = {};
  std::unique_ptr<SoftMachine> machine_;
};

TEST_F(AnonymousMemoryTest, IsAdvisedThroughoutAndTheGuestHasNoSay) {
  machine_->AdviseHuge(GfnRange(Gfn(0), kMemory), false);
  for (uint64_t block = 0; block < 4; ++block) EXPECT_THAT(FlagsOf(block), Contains("hg")) << block;
}

TEST_F(AnonymousMemoryTest, IsAdvisedWhereTheGuestAsks) {
  Make(AnonymousBlocks::kAdvised);
  for (uint64_t block = 0; block < 4; ++block) EXPECT_THAT(FlagsOf(block), Contains("nh")) << block;
  machine_->AdviseHuge(GfnRange(Gfn(1), kMemory - kOnePage - kOnePage), true);
  for (uint64_t block : {0, 3}) EXPECT_THAT(FlagsOf(block), Contains("nh")) << block;
  for (uint64_t block : {1, 2}) EXPECT_THAT(FlagsOf(block), Contains("hg")) << block;
  machine_->AdviseHuge(PagesOf(BlockNumber(2)), false);
  EXPECT_THAT(FlagsOf(1), Contains("hg"));
  EXPECT_THAT(FlagsOf(2), AllOf(Contains("nh"), Not(Contains("hg"))));
}

TEST_F(AnonymousMemoryTest, RangesBeyondItAndEmptyOnesAreIgnored) {
  Make(AnonymousBlocks::kAdvised);
  machine_->AdviseHuge(GfnRange(), true);
  machine_->AdviseHuge(GfnRange(Gfn(~uint64_t{0} - 1), Gfn(~uint64_t{0})), true);
  machine_->AdviseHuge(GfnRange(Gfn(0) + kMemory, PageCount::OfBlocks(4)), true);
  for (uint64_t block = 0; block < 4; ++block) EXPECT_THAT(FlagsOf(block), Contains("nh")) << block;
}

}  // namespace
}  // namespace quire
