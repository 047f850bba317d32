// Whole runs under KVM. In the laboratory, which is slow, guests are small: QUIRE_LAB is set there.

#include <unistd.h>

#include <cstdlib>
#include <optional>
#include <string>

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

  static RunOptions Options() {
    const bool small = std::getenv("QUIRE_LAB") != nullptr;
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
  options.guests = 6;
  options.memory = ByteCount::MiB(16);
  options.pool = ByteCount::MiB(36);
  options.workload = "random";
  options.duration = absl::Seconds(std::getenv("QUIRE_LAB") != nullptr ? 40 : 15);
  const ChildRun run = RunInChild(options);
  EXPECT_EQ(run.status, 4);
  int stopped = 0;
  for (const nlohmann::json& guest : run.report["guests"]) {
    EXPECT_EQ(guest["mismatched_pages"], 0u);
    stopped += guest["exit"] != "ok" ? 1 : 0;
  }
  EXPECT_EQ(stopped, 1);
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
