//! Every call of SDK 1.1.99, and those that only newer SDKs make, against what their compiled code waits for.

use super::*;
use crate::transports::dialect::{Asked, decode};

fn asked(kind: &str, action: &str) -> Asked {
    let mut frame = serde_json::json!({"type": kind});
    if !action.is_empty() {
        frame["action"] = action.into();
    }
    decode(&frame.to_string()).unwrap()
}

/// `type action: awaited`, with `event` before the types that are told by it and `->` before what the caller gets.
const CALLS: &str = "
fsEvent createFile: createFileResponse
fsEvent createFolder: createFolderResponse
fsEvent readFile: readFileResponse
fsEvent updateFile: commandOutput
fsEvent deleteFile: deleteFileResponse
fsEvent deleteFolder: deleteFolderResponse
fsEvent fileList: fileListResponse
fsEvent listCodeDefinitionNames: listCodeDefinitionNamesResponse
fsEvent searchFiles: searchFilesResponse
fsEvent writeToFile: writeToFileResponse
fsEvent grepSearch: grepSearchResponse
fsEvent fuzzySearch: fuzzySearchResponse
fsEvent applyDiff: editFileAndApplyDiffResponse
fsEvent readManyFiles: readManyFilesResponse
fsEvent listDirectory: listDirectoryResponse
fsEvent grep_search: grepSearchResponse
fsEvent file_search: fileSearchResponse
fsEvent edit_file_with_diff: editFileAndApplyDiffResponse
fsEvent editFileAndApplyDiff: editFileAndApplyDiffResponse
fsEvent read_many_files: readManyFilesResponse
fsEvent list_directory: listDirectoryResponse
fsEvent listFiles: listFilesResponse
FSEvent readFile: readFileResponse
inference: llmResponse
Inference: llmResponse
executeCommand: commandFinish commandError
executeCommandRunUntilError: commandError
executeCommandRunUntilInterrupt: commandError
executeCommandWithStream: commandFinish commandError
sendInterruptToTerminal: terminalInterrupted
browserEvent newPage: event newPageResponse
browserEvent getUrl: event getUrlResponse
browserEvent goToPage: event goToPageResponse
browserEvent screenshot: event screenshotResponse -> payload
browserEvent getHTML: event htmlReceived -> htmlResponse
browserEvent getMarkdown: event getMarkdownResponse
browserEvent getPDF: nothing
browserEvent pdfToText: nothing
browserEvent close: nothing
browserEvent getContent: event getContentResponse
browserEvent getSnapShot: event getSnapShotResponse
browserEvent getBrowserInfo: event getBrowserInfoResponse
browserEvent extractText: event extractTextResponse
browserEvent scroll: event scrollResponse
browserEvent type: event typeResponse
browserEvent click: event clickResponse
browserEvent enter: event EnterResponse
browserEvent search: event searchResponse
gitEvent Init: InitResponse
gitEvent Clone: CloneResponse
gitEvent Pull: PullResponse
gitEvent Push: PushResponse
gitEvent Status: StatusResponse
gitEvent Add: AddResponse
gitEvent Commit: gitCommitResponse
gitEvent Checkout: CheckoutResponse
gitEvent Branch: BranchResponse
gitEvent Logs: LogsResponse
gitEvent Diff: DiffResponse
gitEvent gitBranch: gitBranchResponse
gitEvent gitLogs: gitLogsResponse
crawlerEvent start: nothing
crawlerEvent screenshot: nothing
crawlerEvent enter: nothing
crawlerEvent goToPage: nothing
crawlerEvent scroll: nothing
crawlerEvent click: event clickFinished
crawlerEvent type: event typeFinished
crawlerEvent crawl: crawlResponse
codebolttools getEnabledToolBoxes: getEnabledToolBoxesResponse -> data
codebolttools getLocalToolBoxes: getLocalToolBoxesResponse -> data
codebolttools getAvailableToolBoxes: getAvailableToolBoxesResponse -> data
codebolttools searchAvailableToolBoxes: searchAvailableToolBoxesResponse -> data
codebolttools listToolsFromToolBoxes: listToolsFromToolBoxesResponse -> data
codebolttools configureToolBox: configureToolBoxResponse -> data
codebolttools getTools: getToolsResponse -> data
codebolttools executeTool: executeToolResponse -> data
codebolttools getMcpTools: getMcpToolsResponse
codebolttools getMcpList: getMcpListResponse
codebolttools getAllMcpTools: getAllMcpToolsResponse
codebolttools getEnabledMcps: getEnabledMcpsResponse
codebolttools configureMcpTool: configureMcpToolResponse
codeEvent getAllFilesMarkdown: getAllFilesMarkdownResponse
codeEvent performMatch: getgetJsTreeResponse
codeEvent getMatcherList: getMatcherListTreeResponse
codeEvent getMatchDetail: matchDetailTreeResponse
settingEvent getProjectPath: getProjectPathResponse
settingEvent getRepoMap: getRepoMapResponse
settingEvent getEditorFileStatus: getEditorFileStatusResponse
settingEvent getProjectSettings: getProjectSettingsResponse
projectEvent getProjectPath: getProjectPathResponse
projectEvent getRepoMap: getRepoMapResponse
projectEvent getEditorFileStatus: getEditorFileStatusResponse
projectEvent getProjectSettings: getProjectSettingsResponse
projectEvent runProject: nothing
runProject: nothing
projectStateEvent getAppState: getAppStateResponse
projectStateEvent getProjectState: getProjectStateResponse
projectStateEvent updateProjectState: updateProjectStateResponse
stateEvent getAppState: getAppStateResponse
agentStateEvent addToAgentState: addToAgentStateResponse
agentStateEvent getAgentState: getAgentStateResponse
memoryEvent set: memorySetResponse
memoryEvent get: memoryGetResponse
tokenizerEvent addToken: addTokenResponse
tokenizerEvent getToken: getTokenResponse
vectordbEvent getVector: getVectorResponse
vectordbEvent addVectorItem: addVectorItemResponse
vectordbEvent queryVectorItem: qeryVectorItemResponse
vectordbEvent queryVectorItems: qeryVectorItemsResponse
vectorDbEvent queryVectorItems: qeryVectorItemsResponse
taskEvent addTask: addTaskResponse
taskEvent getTasks: getTasksResponse
taskEvent updateTask: updateTaskResponse
taskEvent createTask: addTaskResponse
taskEvent deleteTask: deleteTaskResponse
taskEvent getTaskList: getTasksResponse
taskEvent getTaskDetail: getTaskResponse
taskEvent startTask: startTaskWithAgentResponse
debugEvent addLog: debugEventResponse
debugEvent openDebugBrowser: openDebugBrowserResponse
chatSummaryEvent summarizeAll: getSummarizeAllResponse -> payload
chatSummaryEvent summarize: getSummarizeResponse -> payload
getChatHistory: getChatHistoryResponse
agentEvent findAgent: findAgentByTaskResponse
agentEvent startAgent: taskCompletionResponse
agentEvent listAgents: listAgentsResponse
agentEvent agentsDetail: listAgentsResponse
sendMessage: nothing
waitforReply: waitFormessageResponse
confirmationRequest: confirmationResponse feedbackResponse
processStarted: nothing
processStoped: nothing
processStopped: nothing
processFinished: nothing
notificationEvent: nothing
fsnotify anything: nothing
remoteProviderEvent providerReadFileResponse: nothing
actionBlockComplete: nothing
steeringAck: nothing
providerStartResponse: nothing
environment.createEnvironment: createEnvironmentResponse
dynamicPanel.open: dynamicPanelOpenResponse
reviewMergeRequest.create: reviewMergeRequestCreateResponse
agentEventQueue.getQueueStats: agentEventQueue.getQueueStatsResponse
narrative.createSnapshot: narrative.createSnapshotResponse
kvStore.get: kvStore.get
persistentMemory.create: persistentMemory.create
todoEvent addTodo: addTodoResponse
somethingNew: somethingNewResponse
";

#[test]
fn every_call_of_the_sdks_has_the_type_that_it_waits_for() {
    let mut known = 0;
    for line in CALLS.lines().filter(|line| !line.is_empty()) {
        let (call, expected) = line.split_once(": ").unwrap();
        let (kind, action) = call.split_once(' ').unwrap_or((call, ""));
        let shown = match asked(kind, action).awaits {
            None => "nothing".to_owned(),
            Some(awaits) => {
                let event = if awaits.by == By::Event { "event " } else { "" };
                let types: Vec<&str> = [&*awaits.first]
                    .into_iter()
                    .chain(awaits.also.iter().copied())
                    .collect();
                let gives = match awaits.resolves {
                    Resolves::Frame => "",
                    Resolves::Data | Resolves::List | Resolves::Tools | Resolves::Pair => " -> data",
                    Resolves::Payload | Resolves::Turns => " -> payload",
                    Resolves::Html => " -> htmlResponse",
                };
                format!("{event}{}{gives}", types.join(" "))
            }
        };
        assert_eq!(shown, expected, "{call}");
        known += 1;
    }
    assert_eq!(known, CALLS.trim().lines().count());
}

#[test]
fn every_row_of_the_table_is_among_the_calls_that_are_checked() {
    for row in TABLE.iter().filter(|row| row.action != ANY) {
        let call = format!("\n{} {}", row.kind, row.action);
        let covered = CALLS.contains(&format!("{}:", call.trim_end()));
        let spelled = ["fileSearch", "listCodeDefinitions"].contains(&row.action);
        assert!(covered || spelled, "{call}");
    }
}

#[test]
fn no_row_stands_twice() {
    for (at, row) in TABLE.iter().enumerate() {
        let same = |other: &Row| other.kind == row.kind && other.action.eq_ignore_ascii_case(row.action);
        assert_eq!(TABLE.iter().position(same), Some(at), "{} {}", row.kind, row.action);
    }
}

#[test]
fn a_newer_spelling_of_the_action_awaits_its_own_type() {
    let awaits = |action| asked("fsEvent", action).awaits.unwrap().first;
    assert_eq!(awaits("fuzzySearch"), "fuzzySearchResponse");
    assert_eq!(awaits("fileSearch"), "fileSearchResponse");
    assert_eq!(awaits("listCodeDefinitions"), "listCodeDefinitionsResponse");
    assert_eq!(awaits("acme"), "acmeResponse");
}
