// Whole runs under KVM. In the laboratory, which is slow, guests are small: QUIRE_LAB is set there.

#include <unistd.h>

#include <cstdlib>
#include <optional>
#include <string>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "tests/run/expect_good_run.h"
#include "tests/run/run_in_child.h"
#include "vmm/kvm/kvm_system.h"

namespace quire {
namespace {

class KvmRunTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (absl::StatusOr<KvmSystem> system = KvmSystem::Open(); !system.ok()) GTEST_SKIP() << system.status().message();
  }

  static bool InLaboratory() { return std::getenv("QUIRE_LAB") != nullptr; }

  static RunOptions Options() {
    const bool small = InLaboratory();
    RunOptions options;
    options.accel = Accel::kKvm;
    options.guests = small ? 2 : 4;
    options.memory = ByteCount::MiB(small ? 24 : 256);
    options.pool = ByteCount::MiB(small ? 32 : 512);
    options.duration = absl::Seconds(20);
    return options;
  }
};

// An uncompressed ELF file of 16 MiB or more, one that building or testing needs anyway.
std::optional<std::string> BigProgram() {
  for (const char* path : {"/usr/bin/qemu-system-x86_64", "/usr/lib/gcc/x86_64-linux-gnu/12/cc1plus"}) {
    if (access(path, R_OK) == 0) return path;
  }
  return std::nullopt;
}

TEST_F(KvmRunTest, GuestsRunCorrectlyInLessMemoryThanTheyHave) {
  const RunOptions options = Options();
  ExpectGoodRun(options, RunInChild(options));
}

TEST_F(KvmRunTest, SmpGuestsRunCorrectlyInLessMemoryThanTheyHave) {
  RunOptions options = Options();
  options.vcpus = 2;
  options.workload = "random";
  ExpectGoodRun(options, RunInChild(options));
}

TEST_F(KvmRunTest, StoppingOneGuestSavesTheOthers) {
  RunOptions options;
  options.accel = Accel::kKvm;
  options.guests = 3;
  options.memory = ByteCount::MiB(12);
  options.pool = ByteCount::MiB(30);  // enough for two of them
  options.compressibility = 1;
  options.workload = "random";
  options.duration = absl::Seconds(InLaboratory() ? 40 : 15);
  const ChildRun run = RunInChild(options);
  EXPECT_EQ(run.status, 4);
  int stopped = 0;
  for (const nlohmann::json& guest : run.report["guests"]) {
    EXPECT_EQ(guest["mismatched_pages"], 0u);
    stopped += guest["exit"] != "ok" ? 1 : 0;
  }
  EXPECT_EQ(stopped, 1);
}

// Without pressure each block that may be whole comes in once, by its first touch.
TEST_F(KvmRunTest, WholeBlocksComeWhereGuestsAskForThem) {
  RunOptions options = Options();
  options.guests = 2;
  options.vcpus = 2;
  options.memory = ByteCount::MiB(24);
  options.pool = ByteCount::MiB(128);
  options.duration = absl::Minutes(10);  // ended by its operations
  const auto whole_blocks = [&](Huge huge, const char* advise) {
    options.huge = huge;
    options.workload = absl::StrCat("touch:operations=15000,advise=", advise);
    const ChildRun run = RunInChild(options);
    EXPECT_EQ(run.status, 0);
    EXPECT_EQ(run.report["huge"]["promotions"], 0u);
    return run.report["huge"]["whole_faults"].get<uint64_t>();
  };
  const uint64_t blocks = options.all_memory().in_bytes() / kBlockSize;
  EXPECT_EQ(whole_blocks(Huge::kAdvise, "0"), 0u);
  if (whole_blocks(Huge::kAlways, "0") != blocks) GTEST_SKIP() << "this host gives windows no whole blocks, or not all";
  EXPECT_EQ(whole_blocks(Huge::kAdvise, "0.5"), blocks / 2);
  EXPECT_EQ(whole_blocks(Huge::kAdvise, "1"), blocks);
}

TEST_F(KvmRunTest, GuestsWireAShareOfTheirMemory) {
  RunOptions options = Options();
  options.guests = 2;
  options.vcpus = 2;
  options.memory = ByteCount::MiB(24);
  options.pool = ByteCount::MiB(40);
  options.duration = absl::Minutes(10);
  options.workload = absl::StrCat("random:wired=0.2,operations=", InLaboratory() ? 5'000 : 30'000);
  const ChildRun run = RunInChild(options);
  ExpectGoodRun(options, run);
  EXPECT_EQ(run.report["pool"]["wirings_refused"], 0u);
  EXPECT_GT(run.report["swap"]["refused_wired"], 0u);
}

TEST_F(KvmRunTest, TheHostKernelsMemoryTakesAdviceToo) {
  RunOptions options = Options();
  options.guests = 1;
  options.memory = ByteCount::MiB(24);
  options.engine = Engine::kKernel;
  options.huge = Huge::kAdvise;
  options.workload = "touch:operations=15000,advise=0.5";
  options.duration = absl::Minutes(10);
  const ChildRun run = RunInChild(options);
  EXPECT_EQ(run.status, 0);
  EXPECT_EQ(run.report["guests"][0]["exit"], "ok");
  EXPECT_EQ(run.report["guests"][0]["mismatched_pages"], 0u);
}

// The bytes of a real program instead of generated ones.
TEST_F(KvmRunTest, GuestsFullOfARealProgramRunCorrectlyInLessMemoryThanTheyHave) {
  RunOptions options = Options();
  options.content = BigProgram();
  if (!options.content.has_value()) GTEST_SKIP() << "this host has none of the programs to fill memory with";
  ExpectGoodRun(options, RunInChild(options));
}

}  // namespace
}  // namespace quire
