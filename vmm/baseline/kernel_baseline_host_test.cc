// On this host: real swap space in zram, a memory cgroup, settings of huge pages and of ksmd, and a process that is
// killed while a guest of it has memory in all of them. It takes root, and nobody else who compares kernels.
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cinttypes>
#include <cstdint>
#include <cstdio>
#include <iostream>
#include <map>
#include <memory>
#include <string>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "base/units.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "vmm/baseline/host_settings.h"
#include "vmm/baseline/kernel_baseline.h"
#include "vmm/baseline/killed_process.h"
#include "vmm/baseline/real_host.h"
#include "vmm/baseline/setting.h"

namespace quire {
namespace {

constexpr ByteCount kMemory = ByteCount::MiB(64);
constexpr ByteCount kLimit = ByteCount::MiB(60);
constexpr ByteCount kSwapped = ByteCount::MiB(16);
constexpr KernelNeeds kEverything = {.swaps = true, .limited = true, .merges = true};

ByteCount SwappedOut() {
  const std::string status = ReadSetting("/proc/self/status").value_or("");
  uint64_t kib = 0;
  const size_t at = status.find("VmSwap:");
  if (at == std::string::npos || std::sscanf(status.c_str() + at, "VmSwap: %" SCNu64, &kib) != 1) _exit(6);
  return ByteCount::KiB(kib);
}

// Half of its pages are equal to others, the other half are not: half of such a page does not compress. They are pushed
// out one by one: at a limit the kernel kills a process now and then that has swap space enough.
void FillAndWait(const Signal& ready) {
  void* const memory =
      mmap(nullptr, kMemory.in_bytes(), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) _exit(5);
  madvise(memory, kMemory.in_bytes(), MADV_HUGEPAGE);
  madvise(memory, kMemory.in_bytes(), MADV_MERGEABLE);
  auto* const words = static_cast<uint64_t*>(memory);
  uint64_t random = 88172645463325252u;
  for (uint64_t i = 0; i < kMemory.in_bytes() / sizeof *words; ++i) {
    random ^= random << 13, random ^= random >> 7, random ^= random << 17;
    words[i] = i / 512 % 2 == 0 || i % 512 < 256 ? i % 512 : random;
  }
  const ByteCount most = ByteCount::Bytes(kMemory.in_bytes() / 4 * 3);
  while (SwappedOut() < kSwapped) madvise(memory, most.in_bytes(), MADV_PAGEOUT);
  ready.Send();
  for (;;) pause();
}

enum class Guest {
  kTied,   // as Quire starts them: it dies with its parent
  kLoose,  // it does not, and has let go of the journal as an exec does
};

// Joins the cgroup and fills its memory.
[[noreturn]] void BeGuest(Guest kind, const std::string& procs, const Signal& ready) {
  if (!WriteSetting(procs, "0").ok()) _exit(4);
  if (kind == Guest::kTied) prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (kind == Guest::kLoose) ready.KeepAlone();
  FillAndWait(ready);
  _exit(0);
}

// Of this process, whose other children are guests.
void KillJanitor() {
  const std::string children = ReadSetting(absl::StrCat("/proc/self/task/", getpid(), "/children")).value_or("");
  for (const absl::string_view word : absl::StrSplit(children, ' ', absl::SkipEmpty())) {
    pid_t child = 0;
    if (!absl::SimpleAtoi(word, &child)) continue;
    if (ReadSetting(absl::StrCat("/proc/", child, "/comm")).value_or("") != "quire-janitor") continue;
    kill(child, SIGKILL);
    WaitForChild(child);
  }
}

class KernelBaselineHostTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (const std::string why = ObstacleToBaseline(); !why.empty()) {
      GTEST_SKIP() << "NOTHING ABOUT WHAT A KILLED PROCESS LEAVES BEHIND ON A REAL HOST IS TESTED HERE: " << why;
    }
    AdoptOrphans();
    before_ = HostSettingsNow();
  }

  // A process changes the host and has a guest that has memory in swap space; then it calls `end`, which kills it.
  void RunOwner(Guest guest, absl::FunctionRef<void()> end) {
    const pid_t owner = StartChild([&] {
      const absl::StatusOr<std::unique_ptr<KernelBaseline>> baseline = KernelBaseline::Create(kEverything, kMemory);
      if (!baseline.ok()) Fail(baseline.status());
      Check((*baseline)->Prepare(KernelTuning::kAtItsBest, /*merged=*/true));
      Signal ready;
      StartChild([&] { BeGuest(guest, (*baseline)->procs(), ready); });
      ready.OnlyWait();
      if (!ready.Wait()) Fail(absl::InternalError("the guest has ended"));
      Check((*baseline)->SetLimit(kLimit));
      ExpectUsed((*baseline)->ReadMemory());
      end();
    });
    const int status = WaitForChild(owner);
    ASSERT_TRUE(WIFSIGNALED(status)) << "it has said why";
    ASSERT_EQ(WTERMSIG(status), SIGKILL);
  }

  static void ExpectUsed(const KernelMemory& memory) {
    const bool good = memory.limit == kLimit && memory.resident > ByteCount() && memory.resident <= kLimit &&
                      memory.charged <= kLimit && memory.zram_stored >= kSwapped && memory.zram_used > ByteCount() &&
                      memory.zram_used < memory.zram_stored;
    if (good) return;
    Fail(absl::InternalError(absl::StrCat("a guest is said to have ", memory.resident.in_bytes(), " bytes of ",
                                          memory.charged.in_bytes(), " in memory and ", memory.zram_stored.in_bytes(),
                                          " in zram, which takes ", memory.zram_used.in_bytes())));
  }
  static void Check(const absl::Status& status) {
    if (!status.ok()) Fail(status);
  }
  [[noreturn]] static void Fail(const absl::Status& status) {
    std::cerr << "in a child: " << status << std::endl;
    _exit(3);
  }

  std::map<std::string, std::string> before_;
};

TEST_F(KernelBaselineHostTest, NothingIsLeftOfAnOwnerThatIsKilled) {
  RunOwner(Guest::kTied, KillThisProcess);
  WaitForAllChildren();
  EXPECT_EQ(HostSettingsNow(), before_);
}

// The janitor kills it.
TEST_F(KernelBaselineHostTest, NothingIsLeftOfAGuestThatHasSurvivedItsOwner) {
  RunOwner(Guest::kLoose, KillThisProcess);
  WaitForAllChildren();
  EXPECT_EQ(HostSettingsNow(), before_);
}

TEST_F(KernelBaselineHostTest, WhenTheJanitorIsKilledTooTheNextStartTidiesUp) {
  RunOwner(Guest::kLoose, [] {
    KillJanitor();
    KillThisProcess();
  });
  EXPECT_NE(HostSettingsNow(), before_);
  ::testing::internal::CaptureStderr();
  {
    const absl::StatusOr<std::unique_ptr<KernelBaseline>> next = KernelBaseline::Create(kEverything, kMemory);
    EXPECT_TRUE(next.ok()) << next.status();
  }
  const std::string said = ::testing::internal::GetCapturedStderr();
  EXPECT_THAT(said, ::testing::HasSubstr("was killed and had left changes of this host behind"));
  EXPECT_THAT(said, ::testing::Not(::testing::HasSubstr("could not be undone")));
  WaitForAllChildren();
  EXPECT_EQ(HostSettingsNow(), before_);
}

// A device that others use, for as long as this lives.
class UsedZram {
 public:
  UsedZram() : used_(WriteSetting("/sys/block/zram0/disksize", "4194304").ok()) {}
  ~UsedZram() {
    if (!used_) return;
    EXPECT_EQ(WriteSetting("/sys/block/zram0/reset", "1"), absl::OkStatus());
  }

 private:
  const bool used_;  // by this test; others may have been at it before
};

// With a device of its own, which is made for it.
TEST_F(KernelBaselineHostTest, KilledAtAnyStepItLeavesNothing) {
  const UsedZram used;
  const auto before = HostSettingsNow();
  int step = 0;
  for (bool killed = true; killed; ++step) {
    SCOPED_TRACE(absl::StrCat("step ", step));
    const int status = WaitForChild(StartChild([&] {
      int steps = 0;
      const HostSeams seams = {.at_step = [&] {
        if (steps++ == step) KillThisProcess();
      }};
      const absl::StatusOr<std::unique_ptr<KernelBaseline>> baseline =
          KernelBaseline::Create(kEverything, kMemory, seams);
      if (!baseline.ok()) Fail(baseline.status());
      Check((*baseline)->Prepare(KernelTuning::kAtItsBest, /*merged=*/true));
    }));
    WaitForAllChildren();
    ASSERT_EQ(HostSettingsNow(), before);
    killed = WIFSIGNALED(status);
    ASSERT_TRUE(killed || status == 0);
  }
  EXPECT_GT(step, 30);
}

TEST_F(KernelBaselineHostTest, OneRunLeavesNothingToTheNext) {
  {
    const absl::StatusOr<std::unique_ptr<KernelBaseline>> made = KernelBaseline::Create(kEverything, kMemory);
    ASSERT_TRUE(made.ok()) << made.status();
    KernelBaseline& baseline = **made;
    for (const bool merged : {true, false, true}) {
      for (const KernelTuning tuning :
           {KernelTuning::kAtItsBest, KernelTuning::kAsItComes, KernelTuning::kSmallPages}) {
        ASSERT_EQ(baseline.Prepare(tuning, merged), absl::OkStatus());
        EXPECT_LT(baseline.ReadMemory().zram_stored, ByteCount::MiB(4));
        Signal ready;
        const pid_t guest = StartChild([&] { BeGuest(Guest::kTied, baseline.procs(), ready); });
        ready.OnlyWait();
        ASSERT_TRUE(ready.Wait());
        ASSERT_EQ(baseline.SetLimit(kLimit), absl::OkStatus());
        EXPECT_GE(baseline.ReadMemory().zram_stored, kSwapped);
        if (tuning == KernelTuning::kSmallPages) {
          EXPECT_EQ(baseline.ReadMemory().huge, ByteCount());
        }
        kill(guest, SIGKILL);
        WaitForChild(guest);
      }
    }
    ASSERT_EQ(baseline.Rest(), absl::OkStatus());
  }
  EXPECT_EQ(HostSettingsNow(), before_);
}

}  // namespace
}  // namespace quire
