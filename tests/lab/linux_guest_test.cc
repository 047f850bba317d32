// Boots Debian's kernels as guests, with the real program, in the laboratory: `tools/dev test lab` brings along what
// they boot from (docs/laboratory.md). They say over their consoles how it went (tools/lab/guest/init).

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <fstream>
#include <sstream>
#include <string>
#include <tuple>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "vmm/console_report.h"

namespace quire {
namespace {

// How long a run may take: some twenty times what a boot takes in the laboratory on an idle host, and more for work
// under pressure.
constexpr unsigned kBootSeconds = 240;
constexpr unsigned kWorkSeconds = 400;
// What a kernel says of itself when something is wrong with it.
constexpr const char* kWarnings[] = {"WARNING:", "BUG:", "soft lockup", "rcu: INFO", "Oops", "blocked for more than"};

struct Outcome {
  int status = -1;
  std::string said;                   // on standard output and standard error
  nlohmann::json report;              // null if it wrote none
  std::vector<std::string> consoles;  // one for each guest
};

std::string Contents(const std::string& path) {
  std::ostringstream text;
  text << std::ifstream(path).rdbuf();
  return text.str();
}

ConsoleReport ReportOf(const std::string& console) {
  ConsoleReport report;
  report.Add(console);
  return report;
}

class LinuxGuestTest : public testing::Test {
 protected:
  void SetUp() override { ASSERT_NE(mkdtemp(directory_.data()), nullptr); }

  void TearDown() override {
    for (const std::string& file : files_) unlink(file.c_str());
    rmdir(directory_.c_str());
  }

  // Below the directory that the laboratory runs its command in.
  static std::string GuestFile(const std::string& series, const std::string& name) {
    return absl::StrCat("guest/", series, "/", name);
  }

  static bool IsThere(const std::string& series) { return access(GuestFile(series, "vmlinuz").c_str(), R_OK) == 0; }

  std::string NewFile(const std::string& name) {
    files_.push_back(absl::StrCat(directory_, "/", name));
    return files_.back();
  }

  // Runs so many guests of a kernel until they have powered off. Each has a console file of its own: %d is its number.
  Outcome Run(const std::string& series, const std::string& work, int guests, unsigned limit_seconds,
              const std::vector<std::string>& more) {
    const std::string json = NewFile("report");
    const std::string said = NewFile("said");
    std::vector<std::string> args = {"run",
                                     "--accel=kvm",
                                     absl::StrCat("--guests=", guests),
                                     "--kernel=" + GuestFile(series, "vmlinuz"),
                                     "--initrd=" + GuestFile(series, "initrd"),
                                     "--cmdline=console=ttyS0 quiet panic=-1 quire.work=" + work,
                                     "--console=" + directory_ + "/console-%d",
                                     "--json=" + json};
    args.insert(args.end(), more.begin(), more.end());
    Outcome outcome;
    outcome.status = Execute(args, said, limit_seconds);
    outcome.said = Contents(said);
    outcome.report = nlohmann::json::parse(Contents(json), nullptr, /*allow_exceptions=*/false);
    for (int guest = 0; guest < guests; ++guest) {
      outcome.consoles.push_back(Contents(NewFile(absl::StrCat("console-", guest))));
    }
    return outcome;
  }

 private:
  static int Execute(const std::vector<std::string>& args, const std::string& output, unsigned limit_seconds) {
    std::vector<char*> argv = {const_cast<char*>("quire")};
    for (const std::string& arg : args) argv.push_back(const_cast<char*>(arg.c_str()));
    argv.push_back(nullptr);
    const pid_t child = fork();
    if (child == 0) {
      const int fd = open(output.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
      dup2(fd, STDOUT_FILENO);
      dup2(fd, STDERR_FILENO);
      alarm(limit_seconds);  // goes on in the program
      execv("vmm/quire", argv.data());
      _exit(127);
    }
    int status = 0;
    waitpid(child, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
  }

  std::string directory_ = testing::TempDir() + "/quire-linux-XXXXXX";
  std::vector<std::string> files_;
};

// What each guest that went well says; and the run's report has it too.
void ExpectGoodGuests(const Outcome& outcome) {
  EXPECT_EQ(outcome.status, 0) << outcome.said;
  for (size_t guest = 0; guest < outcome.consoles.size(); ++guest) {
    const std::string& console = outcome.consoles[guest];
    SCOPED_TRACE(absl::StrCat("console of guest ", guest, ":\n", console));
    const ConsoleReport said = ReportOf(console);
    EXPECT_EQ(said.Get("boot"), "ok");
    EXPECT_EQ(said.Get("result"), "ok");
    EXPECT_EQ(said.Get("wrong"), "0");
    EXPECT_EQ(said.Get("kernel_warnings"), "0");
    for (const char* warning : kWarnings) EXPECT_FALSE(absl::StrContains(console, warning)) << warning;
    ASSERT_TRUE(outcome.report.is_object() && outcome.report["guests"].size() == outcome.consoles.size());
    for (const auto& [key, value] : said.values()) EXPECT_EQ(outcome.report["guests"][guest]["console"][key], value);
  }
}

using Boot = std::tuple<const char*, int>;  // kernel series, vCPUs

class LinuxBootTest : public LinuxGuestTest, public testing::WithParamInterface<Boot> {};

TEST_P(LinuxBootTest, BootsAndPowersOff) {
  const auto [series, vcpus] = GetParam();
  if (!IsThere(series)) GTEST_SKIP() << "there is no " << GuestFile(series, "vmlinuz") << ": use `tools/dev test lab`";
  const Outcome outcome =
      Run(series, "", /*guests=*/1, kBootSeconds, {absl::StrCat("--vcpus=", vcpus), "--memory=512M", "--pool=768M"});
  ExpectGoodGuests(outcome);
  const ConsoleReport said = ReportOf(outcome.consoles[0]);
  EXPECT_EQ(said.Get("cpus"), absl::StrCat(vcpus));
  EXPECT_TRUE(absl::StartsWith(said.Get("kernel"), absl::StrCat(series, "."))) << said.Get("kernel");
}

// "Linux6_12With4Vcpus".
std::string BootName(const testing::TestParamInfo<Boot>& info) {
  const auto [series, vcpus] = info.param;
  return absl::StrCat("Linux", absl::StrReplaceAll(series, {{".", "_"}}), "With", vcpus, "Vcpus");
}

INSTANTIATE_TEST_SUITE_P(Kernels, LinuxBootTest,
                         testing::Combine(testing::Values("6.1", "6.12"), testing::Values(1, 2, 4)), BootName);

class LinuxWorkTest : public LinuxGuestTest {
 protected:
  static constexpr const char* kSeries = "6.12";

  void SetUp() override {
    LinuxGuestTest::SetUp();
    if (!IsThere(kSeries)) {
      GTEST_SKIP() << "there is no " << GuestFile(kSeries, "vmlinuz") << ": use `tools/dev test lab`";
    }
  }
};

TEST_F(LinuxWorkTest, TwoGuestsFindTheirMemoryRightInLessThanTheyHave) {
  const Outcome outcome =
      Run(kSeries, "all:160:2", /*guests=*/2, kWorkSeconds, {"--vcpus=2", "--memory=512M", "--pool=384M"});
  ExpectGoodGuests(outcome);
  for (const std::string& console : outcome.consoles) EXPECT_NE(ReportOf(console).Get("checked"), "0");
  ASSERT_TRUE(outcome.report.is_object());
  EXPECT_GT(outcome.report["swap"]["pages_out"], 0u) << "there was no pressure, so this proves nothing";
}

TEST_F(LinuxWorkTest, ReadsADiskAsItIs) {
  const std::string disk = NewFile("disk");
  std::string content;
  for (int i = 0; i < 300000; ++i) absl::StrAppend(&content, i, "\n");
  content.resize(content.size() / 512 * 512);
  std::ofstream(disk) << content;
  const std::string sum_file = NewFile("sum");
  ASSERT_EQ(std::system(absl::StrCat("sha256sum '", disk, "' >'", sum_file, "'").c_str()), 0);
  const Outcome outcome =
      Run(kSeries, "disk", /*guests=*/1, kBootSeconds, {"--memory=512M", "--pool=768M", "--disk=" + disk + ",ro"});
  ExpectGoodGuests(outcome);
  const ConsoleReport said = ReportOf(outcome.consoles[0]);
  EXPECT_EQ(said.Get("vda_sectors"), absl::StrCat(content.size() / 512));
  EXPECT_EQ(said.Get("vda_ro"), "1");
  EXPECT_EQ(said.Get("vda_sha256"), Contents(sum_file).substr(0, 64));
}

}  // namespace
}  // namespace quire
