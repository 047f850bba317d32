#include "vmm/experiment/subprocess.h"

#include <signal.h>

#include <filesystem>
#include <iterator>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace quire {
namespace {

using ::testing::HasSubstr;

absl::StatusOr<std::string> Shell(const std::string& script, absl::string_view input = "") {
  return RunProgram({"sh", "-c", script}, input);
}

std::ptrdiff_t OpenFiles() {
  const std::filesystem::directory_iterator files("/proc/self/fd");
  return std::distance(begin(files), end(files));
}

TEST(SubprocessTest, GivesInputAndTakesOutput) {
  const absl::StatusOr<std::string> text = Shell("cat; echo \"$0\"; echo complaint >&2", "input\n");
  ASSERT_TRUE(text.ok()) << text.status();
  EXPECT_EQ(*text, "input\nsh\n");
}

TEST(SubprocessTest, WordsAreWordsWhateverIsInThem) {
  const absl::StatusOr<std::string> text = RunProgram({"printf", "%s|", "a b", "'\"$HOME\\", "", "*\n"});
  ASSERT_TRUE(text.ok()) << text.status();
  EXPECT_EQ(*text, "a b|'\"$HOME\\||*\n|");
}

// More than any pipe holds, on both at once.
TEST(SubprocessTest, TakesMuchOutputAndManyComplaints) {
  const absl::StatusOr<std::string> text = Shell(
      "i=0; while [ $i -lt 20000 ]; do echo 0123456789; "
      "echo 0123456789 >&2; i=$((i + 1)); done");
  ASSERT_TRUE(text.ok()) << text.status();
  EXPECT_EQ(text->size(), 220'000u);
}

TEST(SubprocessTest, AProgramThatFailsIsQuotedOnOneLine) {
  const absl::Status failed = Shell("echo out; echo >&2; echo no way >&2; echo really >&2; exit 3").status();
  EXPECT_TRUE(absl::IsInternal(failed));
  EXPECT_EQ(failed.message(), "sh failed: no way; really");
}

TEST(SubprocessTest, AProgramThatFailsWithoutAWordHasAStatus) {
  EXPECT_EQ(Shell("exit 3").status().message(), "sh failed: it ended with status 3");
  EXPECT_EQ(Shell("kill -9 $$").status().message(), "sh failed: it was ended by signal 9");
}

TEST(SubprocessTest, AProgramThatIsNotThereIsAnotherError) {
  const absl::Status none = RunProgram({"no-such-program-anywhere"}).status();
  EXPECT_TRUE(absl::IsFailedPrecondition(none));
  EXPECT_THAT(std::string(none.message()), HasSubstr("cannot run no-such-program-anywhere (No such file"));
}

// Its status counts; and nobody dies of a pipe without a reader.
TEST(SubprocessTest, AProgramNeedNotReadItsInput) {
  const std::string much(1 << 20, 'x');
  EXPECT_TRUE(Shell("exec <&-; echo done", much).ok());
  EXPECT_EQ(Shell("exit 4", much).status().message(), "sh failed: it ended with status 4");
  struct sigaction action;
  ASSERT_EQ(sigaction(SIGPIPE, nullptr, &action), 0);
  EXPECT_EQ(action.sa_handler, SIG_DFL);
}

TEST(SubprocessTest, NothingIsLeftOpen) {
  ASSERT_TRUE(Shell("true").ok());
  const std::ptrdiff_t before = OpenFiles();
  for (int i = 0; i < 5; ++i) {
    EXPECT_TRUE(Shell("true").ok());
    EXPECT_FALSE(Shell("false").ok());
    EXPECT_FALSE(RunProgram({"no-such-program-anywhere"}).ok());
  }
  EXPECT_EQ(OpenFiles(), before);
}

}  // namespace
}  // namespace quire
