// Runs the program that Linux guests run, on this host.

#include <stdio.h>
#include <sys/wait.h>

#include <string>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "gtest/gtest.h"
#include "workloads/content.h"

namespace quire {
namespace {

struct Outcome {
  int status = -1;
  std::string text;
};

// `arguments` may redirect.
Outcome GuestWork(const std::string& arguments) {
  Outcome outcome;
  FILE* pipe = popen(absl::StrCat("workloads/linux/guest_work ", arguments).c_str(), "r");
  if (pipe == nullptr) return outcome;
  char bytes[4096];
  while (const size_t size = fread(bytes, 1, sizeof bytes, pipe)) outcome.text.append(bytes, size);
  const int status = pclose(pipe);
  outcome.status = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  return outcome;
}

void ExpectNothingWrong(const std::string& arguments, uint64_t least_checked) {
  const Outcome outcome = GuestWork(arguments);
  EXPECT_EQ(outcome.status, 0);
  const std::pair<std::string, std::string> counts = absl::StrSplit(outcome.text, ' ');
  uint64_t checked = 0;
  EXPECT_TRUE(absl::SimpleAtoi(counts.first, &checked)) << outcome.text;
  EXPECT_GE(checked, least_checked);
  EXPECT_EQ(counts.second, "0\n");
}

TEST(GuestWorkTest, WorksFindTheirMemoryRight) {
  ExpectNothingWrong("7 hog 4 2", 2 * 2 * 1024 + 1024);
  ExpectNothingWrong("8 hog 1 0", 256);
  ExpectNothingWrong("9 forks 5", 1024 + 5);
  ExpectNothingWrong("10 free 3", 3 * 256);
  ExpectNothingWrong("11 scatter 3 </dev/null", 2 * 3 * 256);
  ExpectNothingWrong("11 loss 1 1", 257);
}

TEST(GuestWorkTest, SaysItsProgress) {
  EXPECT_TRUE(
      absl::StartsWith(GuestWork("7 hog 1 2 2>&1").text, "quire: progress=1 of=hog\nquire: progress=2 of=hog\n"));
}

TEST(GuestWorkTest, WritesPagesOfTheContentOfItsSeed) {
  Content content;
  content.key = 12;
  alignas(16) uint64_t words[kWordsPerPage];
  std::string wanted;
  for (uint64_t page = 5; page < 8; ++page) {
    GeneratePage(words, content, page, 1);
    wanted.append(reinterpret_cast<const char*>(words), sizeof words);
  }
  const Outcome outcome = GuestWork("12 pages 5 3");
  EXPECT_EQ(outcome.status, 0);
  EXPECT_TRUE(outcome.text == wanted);
}

TEST(GuestWorkTest, RefusesWhatItDoesNotUnderstand) {
  for (const char* arguments :
       {"", "1", "1 sleep 3", "1 hog", "1 hog 1", "1 hog 0 1", "1 hog x 1", "1 hog -1 1",
        "1 hog 99999999999999999999 1", "1 hog 1 1 1", "x hog 1 1", "1 forks", "1 free 0", "1 scatter"}) {
    const Outcome outcome = GuestWork(absl::StrCat(arguments, " 2>&1"));
    EXPECT_EQ(outcome.status, 1) << arguments;
    EXPECT_TRUE(absl::StartsWith(outcome.text, "quire: failure why=")) << arguments << ": " << outcome.text;
  }
}

}  // namespace
}  // namespace quire
