// A Linux guest on a terminal, as somebody who sits at it has it.

#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "tests/lab/guest_test.h"

namespace quire {
namespace {

class LinuxConsoleTest : public LinuxWorkTest {
 protected:
  // Where the console leads is not said: with one guest on a terminal, that is it.
  std::vector<std::string> OnTerminal(const std::string& work) {
    return Unpacked(Words(kSeries, work, /*guests=*/1, {"--memory=512M", "--pool=768M", "--json=" + report_path()}));
  }
};

TEST_F(LinuxConsoleTest, AShellAnswersOnTheTerminal) {
  QuireProcess quire(OnTerminal("shell"), kBootLimit, QuireProcess::Streams::kTerminal);
  ASSERT_TRUE(quire.AwaitSaid("shell=ready") && quire.AwaitSaid("# ")) << quire.said();
  quire.Type("echo the answer: $((6*7))\r");
  ASSERT_TRUE(quire.AwaitSaid("\nthe answer: 42\r")) << quire.said();
  quire.Type("uname -s\r");
  ASSERT_TRUE(quire.AwaitSaid("\nLinux\r")) << quire.said();
  // Ctrl-C is the guest's: it ends what runs there, and nothing else.
  quire.Type("(echo begun; exec sleep 1000)\r");
  ASSERT_TRUE(quire.AwaitSaid("\nbegun\r")) << quire.said();
  const size_t before = quire.said().size();
  quire.Type("\x03");
  ASSERT_TRUE(quire.Await([&] { return quire.said().find("# ", before) != std::string::npos; })) << quire.said();
  quire.Type("echo still $((40+2))\r");
  ASSERT_TRUE(quire.AwaitSaid("\nstill 42\r")) << quire.said();
  quire.Type("exit\r");
  EXPECT_EQ(quire.Wait(), 0) << quire.said();
  const nlohmann::json report = ReadReport();
  EXPECT_EQ(report["guests"][0]["ended"], "power off") << quire.said();
  EXPECT_EQ(report["guests"][0]["console"]["result"], "ok");
}

TEST_F(LinuxConsoleTest, CtrlAXQuitsAtOnce) {
  std::vector<std::string> words = OnTerminal("shell");
  for (std::string& word : words) {
    if (absl::StartsWith(word, "--cmdline=")) word = "--cmdline=console=ttyS0 panic=-1 quire.work=shell";
  }
  QuireProcess quire(words, kBootLimit, QuireProcess::Streams::kTerminal);
  ASSERT_TRUE(quire.AwaitSaid("Linux version")) << quire.said();
  quire.Type("\x01x");
  EXPECT_EQ(quire.Wait(), 0) << quire.said();
  EXPECT_FALSE(absl::StrContains(quire.said(), "shell=ready")) << "the guest went on";
  const nlohmann::json report = ReadReport();
  EXPECT_EQ(report["guests"][0]["ended"], "time") << quire.said();
}

}  // namespace
}  // namespace quire
