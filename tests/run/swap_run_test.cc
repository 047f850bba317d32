// Whole runs in which most memory lies in files or on NBD servers, also on ones that fail. Built once for each kind of
// vCPU: QUIRE_TEST_ACCEL.

#include <signal.h>
#include <sys/resource.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/config.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "base/units.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "guest/swap/testing/nbdkit.h"
#include "tests/run/expect_good_run.h"
#include "tests/run/run_in_child.h"
#include "vmm/kvm/kvm_system.h"
#include "vmm/options.h"
#include "vmm/progress.h"
#include "vmm/swap_spec.h"

namespace quire {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::MatchesRegex;
using State = GuestSnapshot::State;
using Transport = Nbdkit::Transport;

constexpr Accel kAccel = Accel::QUIRE_TEST_ACCEL;

// Ends by itself, however slow the machine or the sanitizer.
constexpr char kShort[] = "random:operations=1000";
// Ends when the watch says so.
constexpr char kEndless[] = "random";

class SwapRunTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (kAccel != Accel::kKvm) return;
    if (absl::StatusOr<KvmSystem> system = KvmSystem::Open(); !system.ok()) GTEST_SKIP() << system.status().message();
  }

  // Guests in an eighth of their memory; in more of it in the laboratory, which is slow.
  static RunOptions Options(std::vector<SwapSpec> swap) {
    RunOptions options;
    options.accel = kAccel;
    options.guests = 2;
    options.memory = ByteCount::MiB(std::getenv("QUIRE_LAB") != nullptr ? 48 : 80);
    options.pool = ByteCount::MiB(20);
    options.swap = std::move(swap);
    options.workload = kShort;
    options.duration = absl::Minutes(10);
    return options;
  }
  // Unnamed, of the size that the guests can need.
  static SwapSpec File(std::optional<ByteCount> size = std::nullopt) {
    return {.kind = SwapSpec::Kind::kFile, .where = testing::TempDir(), .size = size};
  }
};

class NbdRunTest : public SwapRunTest {
 protected:
  void SetUp() override {
    SwapRunTest::SetUp();
    if (const std::string why = Nbdkit::WhyMissing(); !IsSkipped() && !why.empty()) {
      GTEST_SKIP() << "NOTHING ABOUT SWAPPING TO NBD SERVERS IS TESTED HERE: " << why;
    }
  }

  void StartServer(std::vector<std::string> arguments, Transport transport = Transport::kUnix) {
    absl::StatusOr<std::unique_ptr<Nbdkit>> server = Nbdkit::Start(transport, std::move(arguments));
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
  }
  SwapSpec Server() const { return {.kind = SwapSpec::Kind::kNbd, .where = server_->uri()}; }

  std::unique_ptr<Nbdkit> server_;
};

bool AllRun(const Snapshot& snapshot) {
  return std::all_of(snapshot.guests.begin(), snapshot.guests.end(),
                     [](const GuestSnapshot& guest) { return guest.state == State::kRunning; });
}

// Whether each guest has done so much since the first call.
class Progressed {
 public:
  explicit Progressed(uint64_t operations) : wanted_(operations) {}

  bool operator()(const Snapshot& snapshot) {
    if (before_.empty()) {
      for (const GuestSnapshot& guest : snapshot.guests) before_.push_back(guest.operations);
    }
    for (size_t i = 0; i < before_.size(); ++i) {
      const GuestSnapshot& guest = snapshot.guests[i];
      if (guest.state == State::kRunning && guest.operations < before_[i] + wanted_) return false;
    }
    return true;
  }

 private:
  const uint64_t wanted_;
  std::vector<uint64_t> before_;
};

// Does something once, when all guests have filled their memory, and ends the run when they have done so much more.
Watch OnceAllRun(std::function<void()> act, uint64_t operations = 1'000) {
  return [act = std::move(act), progressed = Progressed(operations), acted = false](const Snapshot& snapshot) mutable {
    if (!acted && (AllRun(snapshot) || AnyIsStopped(snapshot))) {
      act();
      acted = true;
    }
    return acted && progressed(snapshot);
  };
}

void Touch(const std::string& path) { std::ofstream(path) << "\n"; }

// The pool and one store.
void ExpectTiers(const ChildRun& run, const std::string& name) {
  const nlohmann::json& tiers = run.report["swap"]["tiers"];
  ASSERT_EQ(tiers.size(), 2u);
  EXPECT_EQ(tiers[0]["name"], "ram");
  EXPECT_EQ(tiers[1]["name"], name);
  EXPECT_GT(tiers[1]["written_bytes"], 0u);
  EXPECT_GT(tiers[1]["read_bytes"], 0u);
  for (const nlohmann::json& tier : tiers) {
    EXPECT_GT(tier["pages"], 0u) << tier;
    EXPECT_EQ(tier["errors"], 0u) << tier;
  }
}

void ExpectEveryWorkloadRuns(RunOptions options, const std::string& tier) {
  for (const char* workload : {"zipf:operations=5000", "scan:operations=10000", kShort}) {
    SCOPED_TRACE(workload);
    options.workload = workload;
    const ChildRun run = RunInChild(options);
    ExpectGoodRun(options, run);
    ExpectTiers(run, tier);
  }
}

// Those that did not end well; nobody read a wrong byte. Each sentence is to name its own guest.
std::vector<std::string> StoppedGuests(const ChildRun& run) {
  std::vector<std::string> sentences;
  for (const nlohmann::json& guest : run.report["guests"]) {
    EXPECT_EQ(guest["mismatched_pages"], 0u);
    const std::string exit = guest["exit"];
    if (exit == "ok") continue;
    EXPECT_THAT(exit, HasSubstr(absl::StrCat("guest-", guest["id"].get<int>())));
    sentences.push_back(exit);
  }
  return sentences;
}

// --- Where all is well.

TEST_F(SwapRunTest, GuestsRunInAnEighthOfTheirMemoryAndAFile) { ExpectEveryWorkloadRuns(Options({File()}), "file"); }

TEST_F(NbdRunTest, GuestsRunInAnEighthOfTheirMemoryAndAnNbdServersOverASocket) {
  StartServer({"memory", "size=160M"});
  ExpectEveryWorkloadRuns(Options({Server()}), "nbd");
}

TEST_F(NbdRunTest, GuestsRunInAnEighthOfTheirMemoryAndAnNbdServersOverTcp) {
  StartServer({"memory", "size=160M"}, Transport::kTcp);
  const RunOptions options = Options({Server()});
  const ChildRun run = RunInChild(options);
  ExpectGoodRun(options, run);
  ExpectTiers(run, "nbd");
}

TEST_F(NbdRunTest, ASlowServerCostsTimeOnly) {
  StartServer({"--filter=delay", "memory", "size=160M", "rdelay=20ms", "wdelay=20ms"});
  RunOptions options = Options({Server()});
  options.workload = "random:operations=100";
  const ChildRun run = RunInChild(options);
  ExpectGoodRun(options, run);
  ExpectTiers(run, "nbd");
}

TEST_F(SwapRunTest, GuestsAtLimitsOfTheirOwnUseTheFile) {
  RunOptions options = Options({File()});
  options.guest_pool_limit = ByteCount::MiB(6);
  options.guest_swap_limit = options.memory;
  const ChildRun run = RunInChild(options);
  ExpectGoodRun(options, run);
  ExpectTiers(run, "file");
  EXPECT_GT(run.report["faults"]["limit_reclaims"], 0u);
  for (const nlohmann::json& guest : run.report["guests"]) {
    EXPECT_LE(guest["peak_resident_bytes"], options.guest_pool_limit->in_bytes());
    EXPECT_LE(guest["peak_swapped_bytes"], options.guest_swap_limit->in_bytes());
    EXPECT_GT(guest["peak_swapped_bytes"], options.memory.in_bytes() / 2);
  }
}

// --- Stores that take nothing more.

TEST_F(NbdRunTest, AServerThatCannotWriteIsGivenUpAndTheNextStoreTakesOver) {
  StartServer({"--filter=error", "memory", "size=160M", "error-pwrite-rate=100%"});
  const RunOptions options = Options({Server(), File()});
  const ChildRun run = RunInChild(options);
  ExpectGoodRun(options, run);
  const nlohmann::json& tiers = run.report["swap"]["tiers"];
  EXPECT_GE(tiers[1]["errors"], 1u);
  EXPECT_EQ(tiers[1]["pages"], 0u);
  EXPECT_GT(tiers[2]["pages"], 0u);
  EXPECT_EQ(tiers[2]["errors"], 0u);
}

TEST_F(NbdRunTest, WhatAServerHoldsComesBackAfterItHasFailedToWrite) {
  StartServer({"--filter=error", "memory", "size=160M"});
  const std::string trigger = server_->directory() + "/trigger";
  ASSERT_EQ(server_->Restart({"--filter=error", "memory", "size=160M", "error-pwrite-rate=100%",
                              absl::StrCat("error-pwrite-file=", trigger)}),
            absl::OkStatus());
  RunOptions options = Options({Server(), File()});
  options.workload = "random:writes=1";  // what has not changed is not written again
  const ChildRun run = RunInChild(options, OnceAllRun([&] { Touch(trigger); }));
  ExpectGoodRun(options, run);
  const nlohmann::json& tiers = run.report["swap"]["tiers"];
  EXPECT_GE(tiers[1]["errors"], 1u);
  EXPECT_GT(tiers[1]["read_bytes"], 0u);
  EXPECT_GT(tiers[2]["pages"], 0u);
}

TEST_F(NbdRunTest, AServerWithoutRoomIsNoErrorWhereAnotherStoreHasSome) {
  StartServer({"--filter=error", "memory", "size=160M", "error-pwrite=ENOSPC", "error-pwrite-rate=100%"});
  const RunOptions options = Options({Server(), File()});
  const ChildRun run = RunInChild(options);
  ExpectGoodRun(options, run);
  const nlohmann::json& tiers = run.report["swap"]["tiers"];
  EXPECT_EQ(tiers[1]["pages"], 0u);
  EXPECT_EQ(tiers[1]["errors"], 0u);
  EXPECT_GT(tiers[2]["pages"], 0u);
}

TEST_F(SwapRunTest, ASmallFileIsNoErrorWhereAnotherStoreHasRoom) {
  const RunOptions options = Options({File(ByteCount::MiB(2)), File()});
  const ChildRun run = RunInChild(options);
  ExpectGoodRun(options, run);
  const nlohmann::json& tiers = run.report["swap"]["tiers"];
  for (const int i : {1, 2}) {
    EXPECT_GT(tiers[i]["written_bytes"], 0u) << i;
    EXPECT_EQ(tiers[i]["errors"], 0u) << i;
  }
}

TEST_F(SwapRunTest, AFileThatIsTooSmallForTheGuestsEndsInOutOfMemoryAndSaysSo) {
  RunOptions options = Options({File(ByteCount::MiB(2))});
  options.guests = 1;
  options.memory = ByteCount::MiB(80);
  const ChildRun run = RunInChild(options);
  EXPECT_EQ(run.status, 4);
  const std::vector<std::string> stopped = StoppedGuests(run);
  EXPECT_EQ(stopped.size(), 1u);
  for (const std::string& sentence : stopped) {
    EXPECT_THAT(sentence, AllOf(HasSubstr("the pool's limit of 20 MiB is reached"), HasSubstr("swap file"),
                                HasSubstr("has no room for more just now"), HasSubstr("--pool")));
  }
  EXPECT_EQ(run.report["swap"]["tiers"][1]["errors"], 0u);
}

// The disk: the host refuses what lies beyond the limit, as a full disk does.
void FillDisk() {
  signal(SIGXFSZ, SIG_IGN);
  const rlimit limit = {.rlim_cur = 4 << 20, .rlim_max = 4 << 20};
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &limit), 0);
}

TEST_F(NbdRunTest, ADiskThatFillsUpLosesNothingAndTheNextStoreTakesOver) {
  StartServer({"memory", "size=160M"});
  RunOptions options = Options({File(), Server()});
  options.workload = "random:writes=1";
  const ChildRun run = RunInChild(options, OnceAllRun(FillDisk));
  ExpectGoodRun(options, run);
  const nlohmann::json& tiers = run.report["swap"]["tiers"];
  for (const int i : {1, 2}) {
    EXPECT_GT(tiers[i]["written_bytes"], 0u) << i;
    EXPECT_EQ(tiers[i]["errors"], 0u) << i;
  }
}

TEST_F(SwapRunTest, ADiskThatFillsUpAloneLosesNothing) {
  RunOptions options = Options({File()});
  options.workload = kEndless;
  const ChildRun run = RunInChild(options, OnceAllRun(FillDisk));
  const std::vector<std::string> stopped = StoppedGuests(run);
  EXPECT_EQ(run.status, stopped.empty() ? 0 : 4);
  for (const std::string& sentence : stopped) {
    EXPECT_THAT(sentence, AllOf(HasSubstr("the pool's limit of 20 MiB is reached"), HasSubstr("swap file")));
  }
}

// --- Stores that lose pages, or are lost.

TEST_F(NbdRunTest, AGuestWhosePageCannotBeReadIsStoppedAndToldWhy) {
  StartServer({"memory", "size=160M"});
  const std::string trigger = server_->directory() + "/trigger";
  ASSERT_EQ(server_->Restart({"--filter=error", "memory", "size=160M", "error-pread-rate=100%",
                              absl::StrCat("error-pread-file=", trigger)}),
            absl::OkStatus());
  RunOptions options = Options({Server()});
  options.workload = kEndless;
  const ChildRun run = RunInChild(options, OnceAllRun([&] { Touch(trigger); }));
  EXPECT_EQ(run.status, 1);
  const std::vector<std::string> stopped = StoppedGuests(run);
  EXPECT_GE(stopped.size(), 1u);
  for (const std::string& sentence : stopped) {
    EXPECT_THAT(sentence, MatchesRegex("page [0-9]+ of guest-[01] cannot be read back: the NBD export .*"
                                       " failed to read: the server answered Input/output error.*"));
    EXPECT_THAT(sentence, HasSubstr(server_->uri()));
  }
  EXPECT_GE(run.report["swap"]["tiers"][1]["errors"], 1u);
}

TEST_F(NbdRunTest, AServerThatIsKilledAndStartedAgainCostsAPauseOnly) {
  StartServer({"memory", "size=160M"});
  const std::string disk = server_->directory() + "/disk";
  const std::vector<std::string> arguments = {"file", disk};
  {
    std::ofstream file(disk);
    file.seekp((160 << 20) - 1).put('\0');
  }
  ASSERT_EQ(server_->Restart(arguments), absl::OkStatus());
  RunOptions options = Options({Server()});
  options.workload = kEndless;
  // Dead for a sample of the run.
  const ChildRun run = RunInChild(options, [&, killed = false, watch = Watch()](const Snapshot& snapshot) mutable {
    if (!killed && AllRun(snapshot)) {
      server_->Kill();
      killed = true;
    } else if (killed && !watch) {
      EXPECT_EQ(server_->Restart(arguments), absl::OkStatus());
      watch = Progressed(1'000);
    }
    return watch && watch(snapshot);
  });
  ExpectGoodRun(options, run);
  ExpectTiers(run, "nbd");
}

TEST_F(NbdRunTest, GuestsThatNeedAServerThatStaysAwayAreStoppedAndToldWhy) {
  StartServer({"memory", "size=160M"});
  RunOptions options = Options({Server()});
  options.workload = kEndless;
  options.swap_retry = absl::Milliseconds(200);
  const ChildRun run = RunInChild(options, OnceAllRun([&] { server_->Kill(); }));
  EXPECT_EQ(run.status, 1);
  const std::vector<std::string> stopped = StoppedGuests(run);
  EXPECT_GE(stopped.size(), 1u);
  for (const std::string& sentence : stopped) {
    EXPECT_THAT(sentence, AllOf(HasSubstr("cannot be read back: "), HasSubstr(server_->uri()),
                                HasSubstr("Start its server again")));
  }
}

// Nothing is read while memory is filled: pages are to go and find no way out.
TEST_F(NbdRunTest, GuestsThatNeedRoomAndTheServerStaysAwayAreStoppedAndToldWhy) {
  StartServer({"memory", "size=160M"});
  RunOptions options = Options({Server()});
  options.swap_retry = absl::Milliseconds(200);
  const ChildRun run = RunInChild(options, [&, killed = false](const Snapshot& snapshot) mutable {
    if (!std::exchange(killed, true)) server_->Kill();
    return AnyIsStopped(snapshot);
  });
  EXPECT_NE(run.status, 0);
  const std::vector<std::string> stopped = StoppedGuests(run);
  EXPECT_GE(stopped.size(), 1u);
  for (const std::string& sentence : stopped) EXPECT_THAT(sentence, HasSubstr(server_->uri()));
#if !defined(ABSL_HAVE_ADDRESS_SANITIZER) && !defined(ABSL_HAVE_THREAD_SANITIZER)
  EXPECT_LT(run.report["elapsed_seconds"], absl::ToDoubleSeconds(RunOptions().swap_retry)) << "it was not asked";
#endif
}

}  // namespace
}  // namespace quire
