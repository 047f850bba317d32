// `quire manage` on a real libvirtd, with Linux guests that QEMU emulates.
#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <fstream>
#include <functional>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/units.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/libvirt/libvirtd.h"
#include "vmm/libvirt/connection.h"

namespace quire {
namespace {

using DomainSet = LibvirtConnection::DomainSet;
using testing::HasSubstr;
using testing::Not;

constexpr ByteCount kMemory = ByteCount::MiB(256);

std::string Contents(const std::string& path) {
  std::ostringstream text;
  text << std::ifstream(path).rdbuf();
  return text.str();
}

// An emulated guest takes its time.
bool Eventually(const std::function<bool()>& so, absl::Duration patience = absl::Seconds(60)) {
  for (const absl::Time end = absl::Now() + patience; absl::Now() < end; absl::SleepFor(absl::Milliseconds(100))) {
    if (so()) return true;
  }
  return so();
}

// `quire manage` as a user starts it.
class ManageProcess {
 public:
  ManageProcess(std::vector<std::string> more, const std::string& uri, const std::string& said) : said_(said) {
    std::vector<std::string> words = {"quire", "manage", "--connect=" + uri};
    words.insert(words.end(), more.begin(), more.end());
    std::vector<char*> argv;
    for (const std::string& word : words) argv.push_back(const_cast<char*>(word.c_str()));
    argv.push_back(nullptr);
    unlink(said_.c_str());
    process_ = fork();
    if (process_ > 0) return;
    const int fd = open(said_.c_str(), O_WRONLY | O_CREAT | O_APPEND, 0600);
    dup2(fd, STDOUT_FILENO);
    dup2(fd, STDERR_FILENO);
    execv("vmm/quire", argv.data());
    _exit(127);
  }
  ~ManageProcess() {
    if (process_ > 0) End(SIGKILL);
  }

  std::string said() const { return Contents(said_); }
  // As waitpid has it.
  int Wait() {
    int status = 0;
    while (waitpid(process_, &status, 0) < 0 && errno == EINTR) {
    }
    process_ = -1;
    return status;
  }
  int End(int signal) {
    kill(process_, signal);
    return Wait();
  }

 private:
  const std::string said_;
  pid_t process_ = -1;
};

class ManageHost : public testing::Test {
 protected:
  void SetUp() override {
    LabKernel kernel;
    if (const std::string why = FindLabKernel(kernel); !why.empty()) GTEST_SKIP() << why;
    if (const std::string why = libvirtd_.Start(); !why.empty()) GTEST_SKIP() << why;
    WriteInitramfs(kernel, "", Path("initrd"));
    kernel_ = kernel.image;
    Connect();
    const absl::StatusOr<DomainSummary> domain =
        host_->Define(DomainXml("one", 256, kernel_, Path("initrd"), Path("console")));
    ASSERT_TRUE(domain.ok()) << domain.status();
    uuid_ = domain->uuid;
    const absl::Status started = host_->Start(uuid_);
    ASSERT_TRUE(started.ok()) << started << libvirtd_.Said();
    ASSERT_TRUE(Eventually([&] { return absl::StrContains(Contents(Path("console")), "ready"); }));
  }
  void TearDown() override {
    if (host_ != nullptr && !uuid_.empty()) {
      host_->Destroy(uuid_).IgnoreError();
      host_->Undefine(uuid_).IgnoreError();
    }
  }

  std::string Path(const std::string& name) const { return absl::StrCat(libvirtd_.directory(), "/", name); }
  void Connect() {
    absl::StatusOr<std::unique_ptr<LibvirtConnection>> opened = OpenLibvirt(libvirtd_.uri(), LibvirtAccess::kReadWrite);
    ASSERT_TRUE(opened.ok()) << opened.status();
    host_ = *std::move(opened);
  }
  // A policy by which the host has so little memory that guests are to give theirs.
  std::string Greedy(const std::string& more = "") const {
    const NodeMemory memory = *host_->GetNodeMemory();
    std::ofstream(Path("policy.toml")) << "interval = 1\n[host]\nreserve = " << memory.total.in_bytes() - (64 << 20)
                                       << "\n"
                                       << more;
    return "--policy=" + Path("policy.toml");
  }
  ByteCount Memory() const { return host_->GetMemory(uuid_)->current; }

  Libvirtd libvirtd_;
  std::string kernel_, uuid_;
  std::unique_ptr<LibvirtConnection> host_;
};

TEST_F(ManageHost, AnswersWhatTheTestDriverCannot) {
  const absl::StatusOr<NodeMemory> memory = host_->GetNodeMemory();
  ASSERT_TRUE(memory.ok()) << memory.status();
  EXPECT_GT(memory->total, memory->free);
  const absl::StatusOr<NodeKsm> ksm = host_->GetNodeKsm();
  ASSERT_TRUE(ksm.ok()) << ksm.status();
  EXPECT_TRUE(ksm->pages_to_scan.has_value());
  EXPECT_TRUE(host_->SetNodeKsm({.pages_to_scan = ksm->pages_to_scan}).ok());
  ASSERT_TRUE(host_->SetMemoryStatsPeriod(uuid_, 1).ok());
  ASSERT_TRUE(Eventually([&] { return host_->GetMemoryStats(uuid_)->updated.has_value(); }));
  const DomainMemoryStats stats = *host_->GetMemoryStats(uuid_);
  EXPECT_EQ(stats.balloon, kMemory);
  EXPECT_GT(*stats.available, *stats.usable);
  EXPECT_TRUE(stats.rss.has_value());
}

TEST_F(ManageHost, TakesMemoryFromAGuestAndGivesItBackAtTheEnd) {
  ManageProcess manage({Greedy()}, libvirtd_.uri(), Path("said"));
  EXPECT_TRUE(Eventually([&] { return Memory() < ByteCount::MiB(150); })) << manage.said();
  EXPECT_THAT(manage.said(), HasSubstr("one  memory 256 MiB -> "));
  EXPECT_GE(Memory(), ByteCount::MiB(64)) << "its bound";
  EXPECT_GT(*host_->GetMemoryStatsPeriod(uuid_), 0);
  const int status = manage.End(SIGTERM);
  EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGTERM) << manage.said();
  EXPECT_THAT(manage.said(), HasSubstr("Put back: 2 settings"));
  EXPECT_TRUE(Eventually([&] { return Memory() == kMemory; })) << Memory();
  EXPECT_EQ(*host_->GetMemoryStatsPeriod(uuid_), 0);
}

TEST_F(ManageHost, GivesMemoryBackWhenThereIsPlenty) {
  ASSERT_TRUE(host_->SetMemory(uuid_, ByteCount::MiB(160)).ok());
  ASSERT_TRUE(Eventually([&] { return Memory() == ByteCount::MiB(160); }));
  std::ofstream(Path("policy.toml")) << "interval = 1\n[host]\nreserve = \"1M\"\n";
  ManageProcess manage({"--policy=" + Path("policy.toml")}, libvirtd_.uri(), Path("said"));
  EXPECT_TRUE(Eventually([&] { return Memory() >= ByteCount::MiB(253); })) << manage.said();
  EXPECT_THAT(manage.said(), HasSubstr("the host has memory to spare"));
  manage.End(SIGINT);
  EXPECT_TRUE(Eventually([&] { return Memory() == ByteCount::MiB(160); })) << "as it was";
}

TEST_F(ManageHost, GoesOnAfterLibvirtdWasStartedAnew) {
  // A bound that is reached soon, and then no reason for any further change.
  constexpr ByteCount kLeast = ByteCount::MiB(128);
  ManageProcess manage({Greedy("[defaults]\nmin = \"128M\"\n")}, libvirtd_.uri(), Path("said"));
  ASSERT_TRUE(Eventually([&] { return Memory() < ByteCount::MiB(200); })) << manage.said();
  host_.reset();
  libvirtd_.Stop();
  ASSERT_TRUE(Eventually([&] { return absl::StrContains(manage.said(), "is lost"); })) << manage.said();
  ASSERT_EQ(libvirtd_.Start(), "");
  Connect();
  ASSERT_TRUE(Eventually([&] { return absl::StrContains(manage.said(), "Connected again"); })) << manage.said();
  EXPECT_TRUE(Eventually([&] { return Memory() == kLeast; })) << manage.said();
  absl::SleepFor(absl::Seconds(3));
  // Somebody else's hand: it takes the memory again.
  ASSERT_TRUE(host_->SetMemory(uuid_, kMemory).ok());
  EXPECT_TRUE(Eventually([&] { return absl::StrContains(manage.said(), "somebody else"); })) << manage.said();
  EXPECT_TRUE(Eventually([&] { return Memory() == kLeast; })) << manage.said();
  manage.End(SIGTERM);
  EXPECT_TRUE(Eventually([&] { return Memory() == kMemory; })) << manage.said();
}

TEST_F(ManageHost, IsUndoneByTheNextOneIfItWasKilled) {
  ManageProcess manage({Greedy()}, libvirtd_.uri(), Path("said"));
  ASSERT_TRUE(Eventually([&] { return Memory() < ByteCount::MiB(200); })) << manage.said();
  manage.End(SIGKILL);
  EXPECT_LT(Memory(), ByteCount::MiB(200));
  ManageProcess undo({"--undo"}, libvirtd_.uri(), Path("undone"));
  EXPECT_EQ(undo.Wait(), 0) << undo.said();
  EXPECT_THAT(undo.said(), HasSubstr("one has 256 MiB"));
  EXPECT_TRUE(Eventually([&] { return Memory() == kMemory; })) << undo.said();
  EXPECT_EQ(*host_->GetMemoryStatsPeriod(uuid_), 0);
}

TEST_F(ManageHost, IsTheOnlyOneOnItsHost) {
  ManageProcess manage({Greedy()}, libvirtd_.uri(), Path("said"));
  ASSERT_TRUE(Eventually([&] { return absl::StrContains(manage.said(), "Managing"); }));
  ManageProcess second({Greedy()}, libvirtd_.uri(), Path("second"));
  EXPECT_EQ(WEXITSTATUS(second.Wait()), 3) << second.said();
  EXPECT_THAT(second.said(), HasSubstr("another quire manage is at work on this host"));
  manage.End(SIGTERM);
}

TEST_F(ManageHost, SaysWhatItWouldDoAndDoesNothing) {
  ASSERT_TRUE(host_->SetMemoryStatsPeriod(uuid_, 1).ok());
  ASSERT_TRUE(Eventually([&] { return host_->GetMemoryStats(uuid_)->updated.has_value(); }));
  ManageProcess manage({Greedy(), "--dry-run", "--once"}, libvirtd_.uri(), Path("said"));
  EXPECT_EQ(manage.Wait(), 0) << manage.said();
  EXPECT_THAT(manage.said(), HasSubstr("would change: one  memory 256 MiB -> "));
  EXPECT_THAT(manage.said(), HasSubstr("the host is short of memory"));
  absl::SleepFor(absl::Seconds(2));
  EXPECT_EQ(Memory(), kMemory);
}

TEST_F(ManageHost, DoesOneRoundWhoseChangesStay) {
  ManageProcess manage({Greedy(), "--once"}, libvirtd_.uri(), Path("said"));
  EXPECT_EQ(manage.Wait(), 0) << manage.said();
  EXPECT_TRUE(Eventually([&] { return Memory() < ByteCount::MiB(250); })) << manage.said();
  EXPECT_THAT(manage.said(), HasSubstr("What was changed stays"));
  ManageProcess undo({"--undo"}, libvirtd_.uri(), Path("undone"));
  EXPECT_EQ(undo.Wait(), 0) << undo.said();
  EXPECT_TRUE(Eventually([&] { return Memory() == kMemory; })) << undo.said();
}

TEST_F(ManageHost, LimitsADomainAndTunesKsmAndPutsBothBack) {
  const uint64_t pages = *host_->GetNodeKsm()->pages_to_scan;
  ManageProcess manage(
      {Greedy("[memtune]\nsoft_limits = true\n[ksm]\nenabled = true\nbelow = \"100%\"\nleast_pages = 333\n")},
      libvirtd_.uri(), Path("said"));
  EXPECT_TRUE(Eventually([&] { return host_->GetMemoryTune(uuid_)->soft_limit.has_value(); })) << manage.said();
  EXPECT_TRUE(Eventually([&] { return *host_->GetNodeKsm()->pages_to_scan != pages; })) << manage.said();
  EXPECT_TRUE(Eventually([&] { return absl::StartsWith(Contents("/sys/kernel/mm/ksm/run"), "1"); })) << manage.said();
  manage.End(SIGTERM);
  EXPECT_FALSE(host_->GetMemoryTune(uuid_)->soft_limit.has_value()) << manage.said();
  EXPECT_EQ(*host_->GetNodeKsm()->pages_to_scan, pages);
  EXPECT_THAT(Contents("/sys/kernel/mm/ksm/run"), Not(HasSubstr("1")));
}

TEST_F(ManageHost, PutsUpWithDomainsThatComeAndGo) {
  ManageProcess manage({Greedy()}, libvirtd_.uri(), Path("said"));
  ASSERT_TRUE(Eventually([&] { return Memory() < ByteCount::MiB(200); })) << manage.said();
  const absl::StatusOr<DomainSummary> two =
      host_->CreateTransient(DomainXml("two", 256, kernel_, Path("initrd"), Path("console2")));
  ASSERT_TRUE(two.ok()) << two.status();
  EXPECT_TRUE(Eventually([&] { return absl::StrContains(manage.said(), "two  memory"); })) << manage.said();
  ASSERT_TRUE(host_->Destroy(uuid_).ok());
  ASSERT_TRUE(host_->Destroy(two->uuid).ok());
  absl::SleepFor(absl::Seconds(3));
  manage.End(SIGTERM);
  EXPECT_THAT(manage.said(), HasSubstr("Put back"));
  EXPECT_THAT(manage.said(), Not(HasSubstr("cannot be put back")));
}

}  // namespace
}  // namespace quire
