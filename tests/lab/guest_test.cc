#include "tests/lab/guest_test.h"

#include <stdlib.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <sstream>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace quire {
namespace {

// What a kernel says of itself when something is wrong with it.
constexpr const char* kWarnings[] = {"WARNING:", "BUG:", "soft lockup", "rcu: INFO", "Oops", "blocked for more than"};

nlohmann::json ParseJson(const std::string& text) {
  return nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
}

}  // namespace

std::string Contents(const std::string& path) {
  std::ostringstream text;
  text << std::ifstream(path).rdbuf();
  return text.str();
}

void WriteFile(const std::string& path, const std::string& content) {
  std::ofstream(path, std::ios::binary) << content;
  ASSERT_EQ(Contents(path).size(), content.size());
}

ConsoleReport ReportOf(const std::string& console) {
  ConsoleReport report;
  report.Add(console);
  return report;
}

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

// --- GuestTest.

void GuestTest::SetUp() {
  if (getenv("QUIRE_LAB") == nullptr) GTEST_SKIP() << "this is not the laboratory: use `tools/dev test lab`";
  ASSERT_NE(mkdtemp(directory_.data()), nullptr);
}

void GuestTest::TearDown() {
  for (const std::string& file : files_) unlink(file.c_str());
  rmdir(directory_.c_str());
}

std::string GuestTest::NewFile(const std::string& name) {
  files_.push_back(absl::StrCat(directory_, "/", name));
  return files_.back();
}

nlohmann::json GuestTest::ReadReport() { return ParseJson(Contents(report_path())); }

Outcome GuestTest::RunToEnd(std::vector<std::string> words, int guests, absl::Duration limit) {
  words.push_back("--json=" + report_path());
  words.push_back("--console=" + console_path());
  QuireProcess quire(words, limit);
  Outcome outcome;
  outcome.status = quire.Wait();
  outcome.said = quire.said();
  outcome.report = ReadReport();
  for (int guest = 0; guest < guests; ++guest) {
    outcome.consoles.push_back(Contents(NewFile(absl::StrCat("console-", guest))));
  }
  return outcome;
}

// --- LinuxGuestTest.

std::string LinuxGuestTest::GuestFile(const std::string& series, const std::string& name) {
  return absl::StrCat("guest/", series, "/", name);
}

bool LinuxGuestTest::IsThere(const std::string& series) {
  return access(GuestFile(series, "vmlinuz").c_str(), R_OK) == 0;
}

std::vector<std::string> LinuxGuestTest::Words(const std::string& series, const std::string& work, int guests,
                                               const std::vector<std::string>& more) {
  std::vector<std::string> words = {"run",
                                    "--accel=kvm",
                                    absl::StrCat("--guests=", guests),
                                    "--kernel=" + GuestFile(series, "vmlinuz"),
                                    "--initrd=" + GuestFile(series, "initrd"),
                                    "--cmdline=console=ttyS0 quiet panic=-1 quire.work=" + work};
  words.insert(words.end(), more.begin(), more.end());
  return words;
}

Outcome LinuxGuestTest::Run(const std::string& series, const std::string& work, int guests, absl::Duration limit,
                            const std::vector<std::string>& more) {
  return RunToEnd(Words(series, work, guests, more), guests, limit);
}

void LinuxWorkTest::SetUp() {
  LinuxGuestTest::SetUp();
  if (IsSkipped()) return;
  if (!IsThere(kSeries)) GTEST_SKIP() << "there is no " << GuestFile(kSeries, "vmlinuz");
}

std::vector<std::string> LinuxWorkTest::Unpacked(std::vector<std::string> words) {
  const std::string unpacked = GuestFile(kSeries, "vmlinux");
  if (access(unpacked.c_str(), R_OK) != 0) return words;
  for (std::string& word : words) {
    if (absl::StartsWith(word, "--kernel=")) word = "--kernel=" + unpacked;
  }
  return words;
}

// --- The balloon.

bool AskBalloon(int guest, BalloonState& state) {
  const ToolOutcome told = RunTool({"balloon", absl::StrCat("--guest=", guest), "--json"});
  const nlohmann::json json = ParseJson(told.said);
  if (told.status != 0 || !json.is_object()) return false;
  const auto mib = [&](const char* key) { return json.at(key).get<double>() / (1 << 20); };
  state = {.pool_mib = mib("pool_used_bytes"),
           .peak_mib = mib("pool_peak_bytes"),
           .actual_mib = mib("actual_bytes"),
           .reported_mib = mib("reported_bytes"),
           .free_mib = json["statistics"].value("free_bytes", 0.0) / (1 << 20)};
  return true;
}

}  // namespace quire
