#include "vmm/experiment/results_file.h"

#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "vmm/baseline/killed_process.h"

namespace quire {
namespace {

using Json = nlohmann::json;
using ::testing::HasSubstr;

Experiment Some() {
  return {.file = "some.toml", .text = "text", .name = "some", .repetitions = 2, .charts = Json::array()};
}

class ResultsFileTest : public testing::Test {
 protected:
  ResultsFileTest()
      : directory_(absl::StrCat(testing::TempDir(), "/results-",
                                testing::UnitTest::GetInstance()->current_test_info()->name())) {
    std::filesystem::remove_all(directory_);
  }

  std::string Path(absl::string_view name) const { return absl::StrCat(directory_, "/", name); }
  std::string Get(absl::string_view name) const {
    std::ostringstream text;
    text << std::ifstream(Path(name), std::ios::binary).rdbuf();
    return text.str();
  }
  void Put(absl::string_view name, absl::string_view text) const {
    std::filesystem::create_directories(directory_);
    std::ofstream(Path(name), std::ios::binary) << text;
  }
  std::unique_ptr<ResultsFile> Open(const Experiment& experiment = Some()) const {
    absl::StatusOr<std::unique_ptr<ResultsFile>> file = ResultsFile::Open(directory_, experiment);
    EXPECT_TRUE(file.ok()) << file.status();
    return file.ok() ? *std::move(file) : nullptr;
  }
  std::string WhyNot(const Experiment& experiment = Some()) const {
    const absl::StatusOr<std::unique_ptr<ResultsFile>> file = ResultsFile::Open(directory_, experiment);
    EXPECT_TRUE(absl::IsInvalidArgument(file.status())) << file.status();
    return std::string(file.status().message());
  }

  const std::string directory_;
};

TEST_F(ResultsFileTest, WhatWasWrittenIsFoundAgain) {
  {
    const auto file = Open();
    EXPECT_EQ(file->size(), 0u);
    EXPECT_EQ(file->Append({{"run", "a"}, {"x", 1}}), absl::OkStatus());
    EXPECT_EQ(file->Append({{"run", "b"}, {"x", "\xff\n"}}), absl::OkStatus());
    EXPECT_TRUE(file->Has("a"));
    EXPECT_FALSE(file->Has("c"));
  }
  const auto file = Open();
  EXPECT_EQ(file->size(), 2u);
  EXPECT_TRUE(file->Has("a"));
  EXPECT_TRUE(file->Has("b"));
  EXPECT_EQ(file->Append({{"run", "c"}}), absl::OkStatus());
  EXPECT_EQ(Get("results.jsonl"),
            "{\"run\":\"a\",\"x\":1}\n{\"run\":\"b\",\"x\":\"\xef\xbf\xbd\\n\"}\n{\"run\":\"c\"}\n");
  EXPECT_EQ(Json::parse(Get("experiment.json"))["file"], "text");
}

// What kill -9 leaves in the middle of a write.
TEST_F(ResultsFileTest, ALastLineThatIsNotWholeIsCutOff) {
  { EXPECT_EQ(Open()->Append({{"run", "a"}}), absl::OkStatus()); }
  const std::string whole = Get("results.jsonl");
  const std::string next = "{\"run\":\"b\",\"x\":3}";
  for (size_t length = 0; length <= next.size(); ++length) {
    Put("results.jsonl", whole + next.substr(0, length));
    const auto file = Open();
    EXPECT_EQ(file->size(), 1u);
    EXPECT_FALSE(file->Has("b"));
    EXPECT_EQ(Get("results.jsonl"), whole);
  }
}

TEST_F(ResultsFileTest, LinesThatAreNoResultsAreLeftAlone) {
  const std::string lines = "garbage\n\n[1]\n{\"run\":3}\n{\"walk\":\"a\"}\n\xff\xfe\n{\"run\":\"a\"}\n";
  Put("results.jsonl", lines);
  const auto file = Open();
  EXPECT_EQ(file->size(), 1u);
  EXPECT_TRUE(file->Has("a"));
  EXPECT_EQ(Get("results.jsonl"), lines);
}

TEST_F(ResultsFileTest, ResultsOfAnotherExperimentAreNotAddedTo) {
  Open();
  Experiment other = Some();
  other.name = "other";
  EXPECT_THAT(WhyNot(other), HasSubstr("it has those of another experiment; name another directory"));
  EXPECT_EQ(Json::parse(Get("experiment.json"))["name"], "some");
}

TEST_F(ResultsFileTest, ResultsOfTheSameAsItWasOtherwiseAreNotAddedTo) {
  Open();
  Experiment other = Some();
  other.text = "another text";
  EXPECT_THAT(WhyNot(other), HasSubstr("those of some.toml as it was at another time, or with --quick"));
  other = Some();
  other.quick = true;
  EXPECT_THAT(WhyNot(other), HasSubstr("without --quick"));
}

TEST_F(ResultsFileTest, WhatIsNoExperimentIsNotWrittenOver) {
  for (const char* text : {"garbage", "[]", "{\"name\":3}", "{\"name\":\"some\",\"form\":99}"}) {
    Put("experiment.json", text);
    EXPECT_THAT(WhyNot(), HasSubstr("name another directory")) << text;
    EXPECT_EQ(Get("experiment.json"), text);
  }
}

TEST_F(ResultsFileTest, ADirectoryThatCannotBeIsNamed) {
  EXPECT_THAT(std::string(ResultsFile::Open("/nonexistent/x", Some()).status().message()),
              HasSubstr("--out=/nonexistent/x cannot take the results: No such file or directory"));
  Put("file", "x");
  EXPECT_THAT(std::string(ResultsFile::Open(Path("file"), Some()).status().message()), HasSubstr("Not a directory"));
}

TEST_F(ResultsFileTest, OnlyOneAtATimeWrites) {
  const auto first = Open();
  const absl::StatusOr<std::unique_ptr<ResultsFile>> second = ResultsFile::Open(directory_, Some());
  EXPECT_TRUE(absl::IsFailedPrecondition(second.status()));
  EXPECT_THAT(std::string(second.status().message()), HasSubstr("another experiment writes to "));
}

// The run of an experiment that was killed is there for a moment longer, with all that it has from its parent.
TEST_F(ResultsFileTest, ARunThatIsOnItsWayOutIsWaitedFor) {
  Signal held;
  const pid_t child = StartChild([&] {
    const auto file = Open();
    held.Send();
    usleep(300'000);
  });
  held.OnlyWait();
  ASSERT_TRUE(held.Wait());
  EXPECT_NE(Open(), nullptr);
  WaitForChild(child);
}

TEST_F(ResultsFileTest, GathersWhatIsNewAndPartOfTheExperiment) {
  const auto file = Open();
  EXPECT_EQ(file->Append({{"run", "a"}, {"x", 1}}), absl::OkStatus());
  Put("task",
      "{\"run\":\"a\",\"x\":2}\ngarbage\n{\"run\":\"b\"}\n{\"run\":\"stranger\"}\n{\"run\":\"b\"}\n{\"run\":\"c\"");
  EXPECT_EQ(file->Gather(Path("task"), {"a", "b", "c"}), absl::OkStatus());
  EXPECT_EQ(file->Gather(Path("none"), {"a", "b", "c"}), absl::OkStatus());
  EXPECT_EQ(Get("results.jsonl"), "{\"run\":\"a\",\"x\":1}\n{\"run\":\"b\"}\n");
  // The task has written the rest.
  Put("task", "{\"run\":\"c\"}\n");
  EXPECT_EQ(file->Gather(Path("task"), {"a", "b", "c"}), absl::OkStatus());
  EXPECT_EQ(file->size(), 3u);
}

TEST(CountFailedTest, CountsRunsThatFailedAndNothingElse) {
  const std::string directory = testing::TempDir() + "/count_failed";
  mkdir(directory.c_str(), 0777);
  EXPECT_EQ(CountFailed(directory), 0u);
  std::ofstream(directory + "/results.jsonl") << R"({"run": "a", "outcome": "ok"})"
                                              << "\n"
                                              << R"({"run": "b", "outcome": "failed"})"
                                              << "\n"
                                              << "failed\n[\"failed\"]\n"
                                              << R"({"run": "c", "outcome": "killed"})"
                                              << "\n"
                                              << R"({"run": "d", "outcome": "failed"})";
  EXPECT_EQ(CountFailed(directory), 2u);
}

}  // namespace
}  // namespace quire
