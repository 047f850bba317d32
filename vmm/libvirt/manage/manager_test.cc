#include "vmm/libvirt/manage/manager.h"

#include <algorithm>
#include <cstdint>
#include <fstream>
#include <functional>
#include <memory>
#include <sstream>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "base/fake_clock.h"
#include "base/units.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "vmm/baseline/fake_tree.h"
#include "vmm/libvirt/connection.h"
#include "vmm/libvirt/fake_connection.h"
#include "vmm/libvirt/manage/host_view.h"
#include "vmm/libvirt/manage/originals.h"

namespace quire {
namespace {

using testing::Contains;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;

constexpr ByteCount kAll = ByteCount::GiB(8);

// Time goes by in sleeps; rounds are counted by the lists of domains that they ask for.
class ManagerTest : public testing::Test {
 protected:
  ManagerTest() {
    host_.memory = {.total = ByteCount::GiB(32), .free = ByteCount::GiB(1)};
    host_.at_list = [this] {
      ++rounds_;
      for (auto& [uuid, domain] : host_.domains) Speak(domain);
      if (at_round_) at_round_(rounds_);
    };
    for (const char* name : {"one", "two"}) host_.Add(name, kAll);
  }

  // Guests of a host named by its address are another host's, so that no files of this one are read.
  absl::Status Manage(int rounds, ManageOptions options = {.uri = "qemu+ssh://other/system"}) {
    most_rounds_ = rounds;
    options_ = std::move(options);
    options_.policy.memtune.soft_limits |= limits_;
    const ManageSeams seams = {
        .open = [this](LibvirtAccess access) -> absl::StatusOr<std::unique_ptr<LibvirtConnection>> {
          access_ = access;
          if (!open_error_.ok()) return open_error_;
          return FakeConnection::Open(host_);
        },
        .interrupted = [this] { return rounds_ >= most_rounds_; },
        .sleep =
            [this](absl::Duration time) {
              clock_.Advance(time);
              if (at_sleep_) at_sleep_();
            },
        .time = [this] { return Time(); },
        .clock = &clock_,
        .root = tree_.root(),
        .journals = tree_.Path("/run/quire")};
    return ManageDomains(options_, seams, out_, err_);
  }
  absl::Time Time() const {
    return absl::FromUnixSeconds(1'700'000'000) + (clock_.Now() - MonotonicTime::FromNanoseconds(0));
  }
  void Speak(FakeDomain& domain) {
    domain.stats = {
        .available = domain.memory.current, .usable = domain.memory.current - ByteCount::GiB(1), .updated = Time()};
  }
  bool HasJournal() const { return tree_.Has("/run/quire/managed-domains.qemu_ssh___other_system"); }
  FakeDomain& one() { return host_.domain("one"); }

  const FakeTree tree_;
  FakeLibvirtHost host_;
  FakeClock clock_;
  ManageOptions options_;
  bool limits_ = false;
  LibvirtAccess access_ = LibvirtAccess::kReadOnly;
  absl::Status open_error_;
  int rounds_ = 0, most_rounds_ = 0;
  std::function<void(int)> at_round_;
  std::function<void()> at_sleep_;
  std::ostringstream out_, err_;
};

TEST_F(ManagerTest, TakesMemoryAndPutsItBackWhenItEnds) {
  ByteCount in_between;
  at_round_ = [&](int round) {
    if (round == 5) in_between = one().memory.current;
  };
  ASSERT_TRUE(Manage(10).ok()) << err_.str();
  EXPECT_LT(in_between, ByteCount::GiB(6));
  EXPECT_EQ(one().memory.current, kAll);
  EXPECT_EQ(one().stats_period, 0);
  EXPECT_THAT(out_.str(), HasSubstr("one  memory 8 GiB -> "));
  EXPECT_THAT(out_.str(), HasSubstr("Put back: 4 settings"));
  EXPECT_THAT(err_.str(), IsEmpty());
  EXPECT_FALSE(HasJournal());
}

TEST_F(ManagerTest, OnlyLooksInADryRun) {
  ASSERT_TRUE(Manage(5, {.uri = "qemu+ssh://other/system", .dry_run = true}).ok());
  EXPECT_EQ(access_, LibvirtAccess::kReadOnly);
  EXPECT_THAT(host_.log, IsEmpty());
  EXPECT_THAT(out_.str(), HasSubstr("would change: one  memory 8 GiB -> "));
  EXPECT_FALSE(HasJournal());
}

TEST_F(ManagerTest, EndsAfterARoundAndLeavesWhatItChanged) {
  ASSERT_TRUE(Manage(100, {.uri = "qemu+ssh://other/system", .once = true}).ok()) << err_.str();
  EXPECT_EQ(rounds_, 2);
  EXPECT_LT(one().memory.current, kAll);
  EXPECT_TRUE(HasJournal());
  rounds_ = 0;
  ASSERT_TRUE(Manage(100, {.uri = "qemu+ssh://other/system", .undo = true}).ok()) << err_.str();
  EXPECT_EQ(one().memory.current, kAll);
  EXPECT_FALSE(HasJournal());
}

TEST_F(ManagerTest, RemembersTheFirstOfSeveralSingleRounds) {
  for (int i = 0; i < 3; ++i) {
    rounds_ = 0;
    ASSERT_TRUE(Manage(100, {.uri = "qemu+ssh://other/system", .once = true}).ok()) << err_.str();
  }
  EXPECT_LT(one().memory.current, ByteCount::GiB(7));
  rounds_ = 0;
  ASSERT_TRUE(Manage(100, {.uri = "qemu+ssh://other/system", .undo = true}).ok());
  EXPECT_EQ(one().memory.current, kAll);
}

TEST_F(ManagerTest, PutsBackWhatAKilledProcessLeft) {
  {
    absl::StatusOr<Originals> killed = Originals::Open(tree_.Path("/run/quire"), "qemu+ssh://other/system");
    ASSERT_TRUE(killed->Remember({.domain = one().summary.uuid, .id = 1, .name = "one", .value = 5 << 20}).ok());
    ASSERT_TRUE(killed->Remember({.domain = "uuid-of-gone", .id = 1, .name = "gone", .value = 5 << 20}).ok());
    ASSERT_TRUE(killed->Remember({.domain = "uuid-of-two", .id = 7, .name = "two", .value = 5 << 20}).ok());
  }
  ASSERT_TRUE(Manage(0).ok()) << err_.str();
  EXPECT_THAT(out_.str(), HasSubstr("had left changed: two has 5 GiB, gone has 5 GiB, one has 5 GiB"));
  EXPECT_THAT(host_.log, ElementsAre("one: memory 5120 MiB")) << "the others were started anew, or have gone";
  EXPECT_THAT(err_.str(), IsEmpty());
}

TEST_F(ManagerTest, ConnectsAgainLessAndLessOften) {
  int attempts = 0;
  at_round_ = [&](int round) {
    if (round == 4) host_.up = false;
  };
  const MonotonicTime begin = clock_.Now();
  at_sleep_ = [&] {
    ++attempts;
    if (!host_.up && clock_.Now() - begin > absl::Minutes(3)) host_.up = true;
  };
  ASSERT_TRUE(Manage(10).ok()) << err_.str();
  EXPECT_THAT(err_.str(), HasSubstr("the connection to qemu+ssh://other/system is lost"));
  EXPECT_EQ(err_.str().find("lost"), err_.str().rfind("lost")) << "once is enough";
  EXPECT_THAT(out_.str(), HasSubstr("Connected again after "));
  EXPECT_EQ(host_.opened, 2);
  EXPECT_EQ(one().memory.current, kAll) << "and all is put back";
}

TEST_F(ManagerTest, LeavesTheJournalIfTheHostIsNotThereAtTheEnd) {
  at_round_ = [&](int round) {
    if (round == 4) host_.up = false;
  };
  const absl::Status status = Manage(4);
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("quire manage --undo"));
  EXPECT_TRUE(HasJournal());
  host_.up = true;
  at_round_ = nullptr;
  rounds_ = 0;
  ASSERT_TRUE(Manage(0).ok()) << err_.str();
  EXPECT_EQ(one().memory.current, kAll);
}

TEST_F(ManagerTest, PutsUpWithDomainsThatComeAndGo) {
  at_round_ = [&](int round) {
    if (round == 3) host_.domains.erase("uuid-of-one");
    if (round == 5) Speak(host_.Add("three", kAll));
    if (round == 7) Speak(host_.Add("one", kAll, /*id=*/2));
  };
  ASSERT_TRUE(Manage(12).ok()) << err_.str();
  EXPECT_THAT(err_.str(), IsEmpty());
  EXPECT_THAT(out_.str(), HasSubstr("three  memory 8 GiB -> "));
  for (const char* name : {"one", "two", "three"}) EXPECT_EQ(host_.domain(name).memory.current, kAll) << name;
}

TEST_F(ManagerTest, SaysOnceWhoseMemoryCannotBeSet) {
  one().set_memory = absl::UnimplementedError("it has no balloon");
  ASSERT_TRUE(Manage(10).ok());
  EXPECT_THAT(err_.str(), HasSubstr("one is left alone from now on: it has no balloon"));
  EXPECT_EQ(err_.str().find("left alone"), err_.str().rfind("left alone"));
  EXPECT_THAT(host_.log, Not(Contains(HasSubstr("one: memory"))));
}

TEST_F(ManagerTest, LimitsDomainsAndTakesTheLimitsOff) {
  limits_ = true;
  host_.domain("two").tune.soft_limit = ByteCount::GiB(20);
  bool limited = false;
  at_round_ = [&](int round) { limited |= round > 2 && one().tune.soft_limit.has_value(); };
  ASSERT_TRUE(Manage(6).ok()) << err_.str();
  EXPECT_TRUE(limited);
  EXPECT_FALSE(one().tune.soft_limit.has_value());
  EXPECT_EQ(host_.domain("two").tune.soft_limit, ByteCount::GiB(20));
}

TEST_F(ManagerTest, TunesAnotherHostsKsmWithoutItsSwitch) {
  host_.ksm = {.pages_to_scan = 100, .sleep_millisecs = 77};
  ManageOptions options = {.uri = "qemu+ssh://other/system"};
  options.policy.ksm.enabled = true;
  uint64_t most = 0;
  at_round_ = [&](int) { most = std::max(most, *host_.ksm.pages_to_scan); };
  ASSERT_TRUE(Manage(4, options).ok()) << err_.str();
  EXPECT_GT(most, 600u);
  EXPECT_EQ(host_.ksm.pages_to_scan, 100u);
  EXPECT_EQ(host_.ksm.sleep_millisecs, 77u);
}

TEST_F(ManagerTest, SwitchesThisHostsKsm) {
  host_.ksm = {.pages_to_scan = 100, .sleep_millisecs = 20};
  tree_.Put(kKsmRun, "0");
  tree_.Put("/proc/meminfo", "MemTotal:  33554432 kB\nMemAvailable:  1048576 kB");
  ManageOptions options = {.uri = "qemu:///system"};
  options.policy.ksm.enabled = true;
  bool on = false;
  at_round_ = [&](int) { on |= tree_.Get(kKsmRun) == "1"; };
  ASSERT_TRUE(Manage(4, options).ok()) << err_.str();
  EXPECT_TRUE(on);
  EXPECT_EQ(tree_.Get(kKsmRun), "0");
}

TEST_F(ManagerTest, SaysThatTheHostHasNoKsm) {
  host_.ksm_status = absl::UnimplementedError("no such thing");
  ManageOptions options = {.uri = "qemu+ssh://other/system"};
  options.policy.ksm.enabled = true;
  const absl::Status status = Manage(4, options);
  EXPECT_EQ(status.code(), absl::StatusCode::kUnimplemented);
  EXPECT_THAT(std::string(status.message()), HasSubstr("[ksm] enabled"));
  EXPECT_THAT(host_.log, IsEmpty());
}

TEST_F(ManagerTest, SaysWhatItTakesToConnect) {
  open_error_ = absl::PermissionDeniedError("no entry");
  const absl::Status status = Manage(4);
  EXPECT_EQ(status.code(), absl::StatusCode::kPermissionDenied);
  EXPECT_THAT(std::string(status.message()), HasSubstr("group libvirt"));
}

TEST_F(ManagerTest, HasNothingToUndoWhereNothingWasDone) {
  ASSERT_TRUE(Manage(4, {.uri = "qemu+ssh://other/system", .undo = true}).ok());
  EXPECT_THAT(out_.str(), HasSubstr("Nothing is to be put back"));
  EXPECT_EQ(rounds_, 0);
}

TEST_F(ManagerTest, ForgetsDomainsThatHaveGone) {
  for (int i = 0; i < 200; ++i) host_.Add(absl::StrCat("many-", i), kAll);
  at_round_ = [&](int round) {
    if (round != 4) return;
    for (int i = 0; i < 200; ++i) host_.domains.erase(absl::StrCat("uuid-of-many-", i));
  };
  size_t lines = 0;
  at_sleep_ = [&] {
    std::ifstream file(tree_.Path("/run/quire/managed-domains.qemu_ssh___other_system"));
    lines = 0;
    for (std::string line; std::getline(file, line);) ++lines;
  };
  ASSERT_TRUE(Manage(6).ok()) << err_.str();
  EXPECT_LT(lines, 10u);
  EXPECT_GT(lines, 1u);
}

TEST(Originals, ReadsBackWhatItWrites) {
  for (const Original& original :
       {Original{.domain = "some", .id = 3, .name = "web \"1\"\n", .value = 1 << 20},
        Original{.kind = Original::Kind::kSoftLimit, .domain = "some", .id = 3, .name = "web", .value = 0},
        Original{.kind = Original::Kind::kStatsPeriod, .domain = "some", .id = 3, .name = "web", .value = 9},
        Original{.kind = Original::Kind::kKsmPages, .value = 100},
        Original{.kind = Original::Kind::kKsmSleep, .value = 20},
        Original{.kind = Original::Kind::kKsmRun, .value = 1}}) {
    const absl::StatusOr<Original> read = ParseOriginal(ToLine(original));
    ASSERT_TRUE(read.ok()) << read.status();
    EXPECT_EQ(*read, original);
  }
}

TEST(Originals, TakesNoLineThatSaysNothing) {
  for (const char* line :
       {"", "{}", "[]", "null", R"({"undo":"balloon","value":1})", R"({"undo":"ksm_run"})",
        R"({"undo":"ksm_run","value":-1})", R"({"undo":"ksm_run","value":"1"})",
        R"({"undo":"balloon","value":1,"domain":"a","id":99999999999,"name":"a"})", R"({"undo":"what","value":1})"}) {
    EXPECT_FALSE(ParseOriginal(line).ok()) << line;
  }
}

TEST(HostView, TellsThisHostFromOthers) {
  for (const char* uri : {"qemu:///system", "qemu+unix:///system?socket=/a", "test:///default"}) {
    EXPECT_TRUE(IsThisHost(uri)) << uri;
  }
  for (const char* uri : {"qemu+ssh://root@other/system", "qemu+tls://other/system"})
    EXPECT_FALSE(IsThisHost(uri)) << uri;
}

TEST(HostView, ReadsThisHostsFiles) {
  const FakeTree tree;
  FakeLibvirtHost host;
  FakeConnection connection(host);
  EXPECT_FALSE(LookAtHost(connection, true, false, tree.root()).ok());
  tree.Put("/proc/meminfo", "MemTotal:       24684096 kB\nMemFree: 1 kB\nMemAvailable:   20000000 kB");
  absl::StatusOr<HostObservation> seen = LookAtHost(connection, true, false, tree.root());
  ASSERT_TRUE(seen.ok()) << seen.status();
  EXPECT_EQ(seen->total, ByteCount::KiB(24684096));
  EXPECT_EQ(seen->available, ByteCount::KiB(20000000));
  EXPECT_FALSE(seen->pressure.has_value());
  tree.Put("/proc/pressure/memory", "some avg10=2.45 avg60=3.99 avg300=1.75 total=87\nfull avg10=9.9 avg60=0");
  EXPECT_EQ(LookAtHost(connection, true, false, tree.root())->pressure, 2.45);
}

TEST(HostView, CountsHalfOfAnotherHostsCaches) {
  const FakeTree tree;
  FakeLibvirtHost host;
  host.memory = {
      .total = ByteCount::GiB(9), .free = ByteCount::GiB(1), .buffers = ByteCount::GiB(2), .cached = ByteCount::GiB(4)};
  FakeConnection connection(host);
  EXPECT_EQ(LookAtHost(connection, false, false, tree.root())->available, ByteCount::GiB(4));
}

}  // namespace
}  // namespace quire
