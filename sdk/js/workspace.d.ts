/**
 * Folders of the hub for environments inside it. For providers; needs the grant `workspace`.
 *
 * The hub owns the copying, comparing and merging: a provider only decides that there is a folder, and when it goes.
 */

/**
 * Makes the folder of an environment with a copy of the project, and answers its name. Called again for the same
 * environment, it answers the same folder and changes nothing.
 */
export function create(environment: string): string;

/** Whether the folder is still there. */
export function exists(folder: string): boolean;

/** Removes the folder and all in it; removing what is not there succeeds. */
export function remove(folder: string): void;
